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
from twinforce.cli.arguments import (
    add_command,
    add_file,
    add_model,
    add_service_options,
    service_options,
)
from twinforce.cli.files import read_atoms, require
from twinforce_proto import (
    DEFAULT_OUTPUTS,
    OUTPUTS,
    ModelInfo,
    Prediction,
    ServiceError,
    System,
    parse_outputs,
)

# Limits of one request.
_MAX_SYSTEMS = 256
_MAX_ATOMS = 10_000


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
        choices=("extxyz", "json"),
        help="format to write (default: json if --output ends in .json, else extxyz)",
    )
    add_service_options(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    outputs = tuple(parse_outputs(args.outputs.split(",")))
    all_atoms = read_atoms(args.file, args.index)
    with Client(args.url, **service_options(args)) as client:
        info = client.model(args.model)
        predictions = _predict(client, info, all_atoms, outputs)
    file_format = args.format or _format_of(args.output)
    text = _as_json(predictions) if file_format == "json" else _as_extxyz(all_atoms, predictions)
    if args.output is None:
        sys.stdout.write(text)
    else:
        args.output.write_text(text)


def _predict(
    client: Client, info: ModelInfo, all_atoms: Sequence[Any], outputs: Sequence[str]
) -> list[Prediction]:
    systems = [_system(index, atoms, info) for index, atoms in enumerate(all_atoms)]
    predictions: list[Prediction] = []
    with require("tqdm").tqdm(total=len(systems), unit="system", disable=None) as bar:
        for chunk in _chunks(systems):
            try:
                predictions += client.predict(chunk, outputs, info.name)
            except ServiceError as error:
                raise _indexed_in_file(error, len(predictions)) from error
            bar.update(len(chunk))
    return predictions


def _system(index: int, atoms: Any, info: ModelInfo) -> System:
    try:
        system: System = require("twinforce.ase").system_of(atoms, info)
    except ServiceError as error:
        raise error.at(index) from error
    return system


def _chunks(systems: Sequence[System]) -> Iterator[list[System]]:
    chunk: list[System] = []
    n_atoms = 0
    for system in systems:
        n_atoms += len(system)
        if chunk and (n_atoms > _MAX_ATOMS or len(chunk) == _MAX_SYSTEMS):
            yield chunk
            chunk, n_atoms = [], len(system)
        chunk.append(system)
    if chunk:
        yield chunk


def _indexed_in_file(error: ServiceError, n_before: int) -> ServiceError:
    """Return the error with the index of the system in the file instead of in the request."""
    if error.system_index is None:
        return error
    return error.at(n_before + error.system_index)


def _format_of(path: Path | None) -> str:
    return "json" if path is not None and path.suffix == ".json" else "extxyz"


def _values(prediction: Prediction) -> dict[str, Any]:
    values = {name: getattr(prediction, name) for name in OUTPUTS}
    return {name: value for name, value in values.items() if value is not None}


def _as_json(predictions: Sequence[Prediction]) -> str:
    provenance = predictions[0].provenance
    document = {
        "provenance": None if provenance is None else asdict(provenance),
        "predictions": [
            {name: np.asarray(value).tolist() for name, value in _values(prediction).items()}
            for prediction in predictions
        ],
    }
    return json.dumps(document) + "\n"


def _as_extxyz(all_atoms: Sequence[Any], predictions: Sequence[Prediction]) -> str:
    file = io.StringIO()
    for atoms, prediction in zip(all_atoms, predictions, strict=True):
        require("ase.io").write(file, _labeled(atoms, prediction), format="extxyz")
    return file.getvalue()


def _labeled(atoms: Any, prediction: Prediction) -> Any:
    """Return a copy of the atoms with every output, and with a calculator that holds the results.

    `forces` and `stress` of the calculator are the conservative ones if both kinds were computed.
    """
    single_point = require("ase.calculators.singlepoint").SinglePointCalculator
    values = _values(prediction)
    labeled = atoms.copy()
    for name in ("energy", "free_energy", "forces", "stress", *OUTPUTS):
        labeled.info.pop(name, None)
        labeled.arrays.pop(name, None)
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
