"""The price of keys and of TLS: a step of `water` with and without them, over gRPC and REST.

    python -m bench.measurements.access

Three services run side by side: one without keys, one with a key, and one with a key and TLS. One
walker takes steps at each of them in turn, every other round in reverse order, so that other load
on the machine affects all alike. After that, the CPU time of a step of an ideal gas, whose
evaluation takes almost no time, is measured in each process.
"""

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trustme

from bench.runner import record
from bench.runner.command_line import parser_of
from bench.runner.cpu import cpu_per_step
from bench.runner.processes import running_service
from bench.runner.systems import gas, read_system, shaken
from bench.runner.timing import rounds_in_turn
from twinforce import Client
from twinforce_service.callers import command

OUTPUTS = ("energy", "conservative_forces")
WAYS = ("plain", "key", "key and TLS")
TRANSPORTS = ("REST", "gRPC")
Step = Callable[[], object]


def new_key(file: Path) -> str:
    """Add a key to a file and return its text."""
    written = io.StringIO()
    with redirect_stdout(written):
        command.run(["add", "walker", "--file", str(file)], "")
    return written.getvalue().strip()


def certificates(folder: Path) -> tuple[list[str], Path]:
    """Write certificates; return the flags of a service with them and the file to trust."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    file = folder / "server.pem"
    return [f"--tls-certificate={file}", f"--tls-key={file}"], folder / "ca.pem"


def steps_of(stack: ExitStack, compile_flag: str) -> tuple[dict[str, Step], dict[str, Step]]:
    """Return the steps of `water` and those of an ideal gas, by transport and way."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    key = new_key(folder / "keys.json")
    tls, ca = certificates(folder)
    keys = f"--keys={folder / 'keys.json'}"
    flags: dict[str, list[str]] = {"plain": [], "key": [keys], "key and TLS": [keys, *tls]}
    options: dict[str, Any] = {
        "plain": {},
        "key": {"key": key},
        "key and TLS": {"key": key, "ca": ca},
    }
    moves, light_moves = shaken(read_system()), shaken(gas(64))
    water: dict[str, Step] = {}
    light: dict[str, Step] = {}
    for way in WAYS:
        models = ("--model=toy=toy:ideal-gas", compile_flag)
        urls = stack.enter_context(running_service("--n-threads=1", *models, *flags[way]))
        for transport, url in zip(TRANSPORTS, urls, strict=True):
            client = stack.enter_context(Client(url, **options[way]))
            of_water = stack.enter_context(client.stream("water", OUTPUTS))
            of_gas = stack.enter_context(client.stream("toy", OUTPUTS))
            name = f"{transport}, {way}"
            water[name] = lambda stream=of_water: stream.predict(moves())
            light[name] = lambda stream=of_gas: stream.predict(light_moves())
    return water, light


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write bench/results/access.json."""
    parser = parser_of("bench.measurements.access", __doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of all rounds")
    parser.add_argument("--cpu-steps", type=int, default=300,
                        help="number of steps for the CPU time of each row")  # fmt: skip
    parser.add_argument("--compile", default="on", choices=("on", "off"), help="compile `water`")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        water, light = steps_of(stack, f"--compile={options.compile}")
        rounds = rounds_in_turn(water, options.seconds, n_warm_up=5, n_in_a_row=3)
        cpu = {name: cpu_per_step(step, options.cpu_steps) for name, step in light.items()}
    ratios, rows = {}, {}
    print("\n`water`, 192 atoms, ms per step: median (10% - 90%), over the plain way; CPU of a gas")
    for name, timing in rounds.timings().items():
        base = f"{name.partition(',')[0]}, plain"
        ratios[name] = rounds.ratio(name, base)
        spent = ", ".join(f"{role} {value:.3f}" for role, value in cpu[name].items())
        print(f"  {name:20}{timing}   x {ratios[name].median:.3f}   CPU ({spent})")
        rows[name] = asdict(timing) | {"cpu": cpu[name]}
    details = {"n_rounds": len(rounds.taken["REST, plain"]), "compile": options.compile}
    record.write(options.out, "access", ratios, **details, milliseconds=rows)


if __name__ == "__main__":
    main()
