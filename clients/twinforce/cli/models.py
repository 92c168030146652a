"""`twinforce models`: list the served models, or describe one."""

import argparse
import json
import sys
from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import Any

from twinforce._client import Client
from twinforce.cli.arguments import add_command, add_service_options, service_options
from twinforce.cli.columns import aligned
from twinforce.cli.progress import suggest
from twinforce_proto import ModelInfo


def add_models_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "models",
        "[NAME]",
        summary="list the served models, or describe one of them",
        example="twinforce models water --json",
    )
    models = parser.add_argument_group("models")
    models.add_argument(
        "model", nargs="?", metavar="NAME", help="model to describe (default: list all models)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="write JSON instead of text")
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    with Client(args.url, **service_options(args)) as client:
        infos = [client.model(args.model)] if args.model else client.models()
    if args.json:
        text = json.dumps([asdict(info) for info in infos], indent=2)
    elif args.model:
        text = _description(infos[0])
    else:
        text = _table(infos)
    sys.stdout.write(text + "\n")
    if not args.json and infos:
        suggest(args, ["bench", "FILE", "--model", infos[0].name])


def _table(infos: Iterable[ModelInfo]) -> str:
    header = ("model", "version", "architecture", "elements", "dtype", "device", "outputs")
    rows = [header] + [
        (
            info.name,
            info.version,
            info.architecture,
            elements_of(info.elements),
            info.dtype,
            info.device,
            " ".join(info.outputs),
        )
        for info in infos
    ]
    return aligned(rows)


def _description(info: ModelInfo) -> str:
    facts = {
        "version": info.version,
        "sha256": info.sha256,
        "architecture": info.architecture,
        "parameters": info.n_parameters,
        "cutoff": f"{info.cutoff:g} Å",
        "elements": elements_of(info.elements),
        "dtype": info.dtype,
        "device": info.device,
        "outputs": ", ".join(f"{name} ({info.units.get(name, '')})" for name in info.outputs),
        "uses charge": "yes" if info.uses_charge else "no",
        "uses spin": "yes" if info.uses_spin else "no",
    }
    lines = [info.name, *(f"  {name + ':':<14}{value}" for name, value in facts.items())]
    return "\n".join([*lines, "", info.card]).rstrip()


def elements_of(elements: Collection[int]) -> str:
    """Return the symbols of the elements, or their atomic numbers if ASE is not installed."""
    try:
        from ase.data import chemical_symbols
    except ModuleNotFoundError:
        names = [str(number) for number in elements]
    else:
        names = [chemical_symbols[number] for number in elements]
    return " ".join(names) if len(names) <= 12 else f"{len(names)} elements"
