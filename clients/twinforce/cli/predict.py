"""`twinforce predict`: evaluate everything in a file."""

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
from twinforce.cli.files import need, read_atoms
from twinforce_proto import (
    DEFAULT_OUTPUTS,
    OUTPUTS,
    ModelInfo,
    Prediction,
    ServiceError,
    System,
    parse_outputs,
)

# What one request holds at most.
_MAX_SYSTEMS = 256
_MAX_ATOMS = 10_000


def add_predict_command(commands: Any, asking: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "predict", parents=[asking], help="evaluate the atoms in a file of any ASE format"
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--index", default=":", help="which atoms of the file (default: all)")
    parser.add_argument("--model", help="its name (default: the only one, else water)")
    parser.add_argument(
        "--outputs",
        default=",".join(DEFAULT_OUTPUTS),
        help=f"commas between; of {', '.join(OUTPUTS)}, hybrid (default: %(default)s)",
    )
    parser.add_argument(
        "--output", "-o", type=Path, metavar="FILE", help="default: standard output"
    )
    parser.add_argument(
        "--format", choices=("extxyz", "json"), help="default: by the suffix, else extxyz"
    )
    parser.set_defaults(command=_run)


def _run(given: argparse.Namespace) -> None:
    outputs = tuple(parse_outputs(given.outputs.split(",")))
    all_atoms = read_atoms(given.file, given.index)
    with Client(given.url, timeout=given.timeout) as client:
        info = client.model(given.model)
        predictions = _predict(client, info, all_atoms, outputs)
    form = given.format or _form_of(given.output)
    text = _as_json(predictions) if form == "json" else _as_extxyz(all_atoms, predictions)
    if given.output is None:
        sys.stdout.write(text)
    else:
        given.output.write_text(text)


def _predict(
    client: Client, info: ModelInfo, all_atoms: Sequence[Any], outputs: Sequence[str]
) -> list[Prediction]:
    systems = [_system(index, atoms, info) for index, atoms in enumerate(all_atoms)]
    predictions: list[Prediction] = []
    with need("tqdm").tqdm(total=len(systems), unit="system", disable=None) as bar:
        for chunk in _chunks(systems):
            try:
                predictions += client.predict(chunk, outputs, info.name)
            except ServiceError as error:
                raise _in_file(error, len(predictions)) from error
            bar.update(len(chunk))
    return predictions


def _system(index: int, atoms: Any, info: ModelInfo) -> System:
    try:
        system: System = need("twinforce.ase").system_of(atoms, info)
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


def _in_file(error: ServiceError, n_before: int) -> ServiceError:
    """Return the error, said of the system's place in the file instead of in the request."""
    if error.system_index is None:
        return error
    return error.at(n_before + error.system_index)


def _form_of(path: Path | None) -> str:
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
        need("ase.io").write(file, _labeled(atoms, prediction), format="extxyz")
    return file.getvalue()


def _labeled(atoms: Any, prediction: Prediction) -> Any:
    """Return the atoms with every output under its own name, and energy and forces as ASE's.

    ASE's `forces` and `stress` are the conservative ones where they were asked for.
    """
    single_point = need("ase.calculators.singlepoint").SinglePointCalculator
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
    return None if stress is None else need("ase.stress").full_3x3_to_voigt_6_stress(stress)
