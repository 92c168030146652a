"""`twinforce predict`: evaluate the systems in a file."""

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from twinforce._client import Client
from twinforce._files import replace_file
from twinforce._systems import MAX_SYSTEMS, chunked
from twinforce._weights import ServedWeights
from twinforce.cli.arguments import (
    add_command,
    add_file,
    add_model,
    add_quiet,
    add_service_options,
    service_options,
)
from twinforce.cli.files import check_outputs, read_atoms, require, without_results
from twinforce.cli.progress import ProgressMeter, suggest
from twinforce_proto import (
    DEFAULT_OUTPUTS,
    OUTPUTS,
    ModelInfo,
    Prediction,
    ServiceError,
    System,
    parse_outputs,
)

_SUFFIXES = {".xyz": "extxyz", ".extxyz": "extxyz", ".json": "json", ".traj": "traj"}
_FORMATS = tuple(dict.fromkeys(_SUFFIXES.values()))
# Most systems of one request.
_MAX_SYSTEMS = MAX_SYSTEMS


def add_predict_command(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "predict",
        "FILE",
        summary="evaluate the systems in a file",
        example="twinforce predict water.xyz --outputs hybrid --output predicted.xyz",
    )
    add_file(
        parser.add_argument_group("system"),
        index=":",
        index_help="systems to evaluate, such as -1 or 0:100:10 (default: all)",
    )
    prediction = parser.add_argument_group("prediction")
    add_model(prediction)
    prediction.add_argument(
        "--outputs",
        default=",".join(DEFAULT_OUTPUTS),
        metavar="LIST",
        help=f"comma-separated quantities, out of {', '.join(OUTPUTS)}; hybrid stands for the "
        "energy and both kinds of forces (default: %(default)s)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write (default: standard output)",
    )
    output.add_argument(
        "--format",
        choices=_FORMATS,
        help="format to write (default: that of the suffix of --output: .xyz, .extxyz, .json or "
        ".traj; extxyz without one)",
    )
    add_quiet(output)
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    check_outputs(args.file, {"--output": args.output})
    file_format = _format_of(args.output, args.format)
    outputs = tuple(parse_outputs(args.outputs.split(",")))
    all_atoms = read_atoms(args.file, args.index)
    with Client(args.url, **service_options(args)) as client:
        info = client.model(args.model)
        predictions = _predict(client, info, all_atoms, outputs, is_quiet=args.quiet)
    write = {"json": _as_json, "extxyz": _as_extxyz, "traj": _as_traj}[file_format]
    content = write(all_atoms, predictions)
    if args.output is None:
        sys.stdout.write(content.decode())
        return
    replace_file(args.output, content)
    if not args.quiet:
        suggest(args, ["relax", str(args.file)], ["md", str(args.file)])


def _predict(
    client: Client,
    info: ModelInfo,
    all_atoms: Sequence[Any],
    outputs: Sequence[str],
    *,
    is_quiet: bool,
) -> list[Prediction]:
    systems = [_system(index, atoms) for index, atoms in enumerate(all_atoms)]
    predictions: list[Prediction] = []
    with ProgressMeter(len(systems), "systems", is_quiet=is_quiet) as meter:
        for chunk in _chunks(systems):
            try:
                predictions += client.predict(chunk, outputs, info.name)
            except ServiceError as error:
                raise _indexed_in_file(error, len(predictions)) from error
            _check_weights(info, predictions[-1])
            meter.update(len(predictions))
    return predictions


def _check_weights(info: ModelInfo, prediction: Prediction) -> None:
    """Raise if the service has other weights by now, so that a file holds those of one model."""
    if prediction.provenance is None:
        return
    begun, found = ServedWeights.of(info), ServedWeights.of(prediction.provenance)
    if found != begun:
        raise begun.changed_to(found, "which the first systems had", "run the command again")


def _system(index: int, atoms: Any) -> System:
    try:
        system: System = require("twinforce.ase").system_of(atoms)
    except ServiceError as error:
        raise error.at(index) from error
    return system


def _chunks(systems: Sequence[System]) -> Iterator[list[System]]:
    return chunked(systems, _MAX_SYSTEMS)


def _indexed_in_file(error: ServiceError, n_before: int) -> ServiceError:
    """Return the error with the index of the system in the file instead of in the request."""
    if error.system_index is None:
        return error
    return error.at(n_before + error.system_index)


def _format_of(path: Path | None, chosen: str | None) -> str:
    """Return the format to write.

    Raises:
        ValueError: The suffix is unknown, or that of another format than the chosen one.
    """
    suffix = "" if path is None else path.suffix.lower()
    of_suffix = _SUFFIXES.get(suffix)
    if chosen == "traj" and path is None:
        raise ValueError("--format traj: expected an --output, because the format is binary")
    if of_suffix is None and suffix and chosen is None:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(_SUFFIXES)}")
    if of_suffix and chosen and of_suffix != chosen:
        raise ValueError(f"{path}: expected a name of a file in {chosen}, got one in {of_suffix}")
    return chosen or of_suffix or "extxyz"


def _values(prediction: Prediction) -> dict[str, Any]:
    values = {name: getattr(prediction, name) for name in OUTPUTS}
    return {name: value for name, value in values.items() if value is not None}


def _as_json(_: Sequence[Any], predictions: Sequence[Prediction]) -> bytes:
    provenance = predictions[0].provenance
    document = {
        "provenance": None if provenance is None else asdict(provenance),
        "predictions": [
            {name: np.asarray(value).tolist() for name, value in _values(prediction).items()}
            for prediction in predictions
        ],
    }
    return (json.dumps(document) + "\n").encode()


def _as_extxyz(all_atoms: Sequence[Any], predictions: Sequence[Prediction]) -> bytes:
    file = io.StringIO()
    for atoms, prediction in zip(all_atoms, predictions, strict=True):
        require("ase.io").write(file, _labeled(atoms, prediction), format="extxyz")
    return file.getvalue().encode()


def _as_traj(all_atoms: Sequence[Any], predictions: Sequence[Prediction]) -> bytes:
    file = io.BytesIO()
    trajectory = require("ase.io.trajectory").TrajectoryWriter(file, "w")
    for atoms, prediction in zip(all_atoms, predictions, strict=True):
        trajectory.write(_without_columns(_labeled(atoms, prediction)))
    return file.getvalue()


def _without_columns(labeled: Any) -> Any:
    """Move outputs per atom into `info`, because a .traj file has no columns of its own."""
    for name in OUTPUTS:
        if name in labeled.arrays:
            labeled.info[name] = labeled.arrays.pop(name)
    return labeled


def _labeled(atoms: Any, prediction: Prediction) -> Any:
    """Return a copy of the atoms with every output, and with a calculator that holds the results.

    `forces` and `stress` of the calculator are the conservative ones if both kinds were computed.
    """
    single_point = require("ase.calculators.singlepoint").SinglePointCalculator
    values = _values(prediction)
    labeled = without_results(atoms)
    for name, value in values.items():
        if name.endswith("_stress"):
            labeled.info[name] = np.array(value)
        elif name != "energy":
            labeled.set_array(name, np.array(value))
    results = {
        "energy": values.get("energy"),
        "forces": values.get("conservative_forces", values.get("direct_forces")),
        "stress": _voigt(values.get("conservative_stress", values.get("direct_stress"))),
    }
    known = {name: value for name, value in results.items() if value is not None}
    labeled.calc = single_point(labeled, **known)
    return labeled


def _voigt(stress: Any) -> Any:
    return None if stress is None else require("ase.stress").full_3x3_to_voigt_6_stress(stress)
