"""Loading of models by spec: a potential, and the `ModelInfo` that it declares.

A model is a directory with `model.safetensors` (weights; no pickle anywhere), `model.json` (their
meaning and SHA-256) and `CARD.md` (the model card). Its `architecture` selects the loader: one of
this package, or one that a third party installs under the entry point group
`twinforce.potentials`.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeAlias

import torch

from twinforce_models.loading.catalog import families
from twinforce_models.loading.composition import compose_info, parse_composed_spec
from twinforce_models.loading.families import FoundModel, find_family, load_family
from twinforce_models.loading.model_file import file_sha256
from twinforce_models.loading.source import NO_TRUST, Source, Trust
from twinforce_models.loading.spec import ModelSpec
from twinforce_models.neighbors.walker_lists import WalkerLists
from twinforce_models.potential import Potential
from twinforce_models.potentials.composed import Composed
from twinforce_models.potentials.toys.harmonic import harmonic
from twinforce_models.potentials.toys.ideal_gas import IdealGas, ideal_gas
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.potentials.toys.pairwise import PairPotential
from twinforce_models.tables.predictor import TablePredictor
from twinforce_proto import OUTPUTS, UNITS, ModelInfo, ModelLoadError

ENTRY_POINT_GROUP = "twinforce.potentials"

Loader: TypeAlias = Callable[[Path, dict[str, Any], torch.device, torch.dtype], Potential]
"""(directory, content of model.json, device, dtype) -> potential."""

_BUNDLED = Path(__file__).parent / "bundled"
_BUILT_IN = {"hybrid_net": "twinforce_models.potentials.hybrid_net.potential:load"}
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_TOY = "toy:"
_TOYS: dict[str, Callable[..., PairPotential | IdealGas]] = {
    "toy:harmonic": harmonic,
    "toy:ideal-gas": ideal_gas,
    "toy:lennard-jones": lennard_jones,
}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A potential that is ready to be evaluated, and the state that is kept between evaluations.

    Attributes:
        info: The capabilities that the model declares.
        potential: The potential.
        lists: Neighbor lists of the walkers that use the model.
        tables: Evaluates systems without synchronizing with the device; None where that is not
            faster.
    """

    info: ModelInfo
    potential: Potential
    lists: WalkerLists = field(default_factory=WalkerLists)
    tables: TablePredictor | None = None


def load(
    spec: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    name: str | None = None,
    trust: Trust = NO_TRUST,
) -> LoadedModel:
    """Load a model.

    Args:
        spec: The name of a bundled model, such as "water"; a toy, such as "toy:harmonic"; the
            path of a model's directory, also with #sha256= of its weights; a file or a published
            name of a family of `loading`, such as "model.ckpt" or "orb:orb-v2"; or two models
            combined into one, "conservative:A+direct:B".
        device: Device to compute on.
        dtype: Data type to compute in. None uses the one that the model specifies.
        name: Name by which clients request the model. None uses the model's own name.
        trust: Permissions to run code that the model brings along.

    Raises:
        ModelLoadError: If there is no such model, or it is damaged.
    """
    device = torch.device(device)
    parsed_dtype = None if dtype is None else _parse_dtype(dtype)
    if (parts := parse_composed_spec(str(spec))) is not None:
        conservative, direct = (
            load(part, device=device, dtype=parsed_dtype, trust=trust) for part in parts
        )
        return _compose(conservative, direct, name)
    if str(spec) in _TOYS:
        return _load_toy(str(spec), device, parsed_dtype, name)
    if Path(spec).expanduser().is_dir():
        return _load_directory(Path(spec).expanduser(), device, parsed_dtype, name)
    parsed = ModelSpec.parse(str(spec))
    if (found := _load_of_family(parsed, device, parsed_dtype, trust)) is not None:
        facts = found.facts | ({"name": name} if name else {})
        return LoadedModel(_describe(found.potential, **facts), found.potential)
    return _load_directory(_find_directory(parsed), device, parsed_dtype, name, parsed.sha256)


def _load_of_family(
    spec: ModelSpec, device: torch.device, dtype: torch.dtype | None, trust: Trust
) -> FoundModel | None:
    """Return the model of a family that a spec names; None if it names a toy or a directory."""
    if spec.text.startswith(_TOY) or Path(spec.start).expanduser().is_dir():
        return None
    if (family := find_family(spec)) is None:
        return None
    return load_family(family, Source(spec, device, dtype, trust))


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that ship with this package."""
    return tuple(sorted(path.parent.name for path in _BUNDLED.glob("*/model.json")))


def toy_models() -> tuple[str, ...]:
    """Return the names of the toys."""
    return tuple(_TOYS)


def _find_directory(spec: ModelSpec) -> Path:
    """Return the directory of a model of this package, or of one that a path names."""
    directory = Path(spec.start).expanduser()
    if spec.start in bundled_models():
        directory = _BUNDLED / spec.start
    elif not directory.is_dir():
        raise ModelLoadError(_unknown_place(spec, directory))
    if spec.options:
        raise ModelLoadError(
            f"model {spec.text!r}: expected no option but sha256 after #, for a model of "
            f"TwinForce, got {', '.join(sorted(spec.options))}"
        )
    return directory


def _unknown_place(spec: ModelSpec, path: Path) -> str:
    if spec.start in _TOYS:
        return f"model {spec.text!r}: expected nothing after a toy, got #"
    known = ", ".join(sorted(families()))
    if path.is_file():
        return (
            f"model {spec.text!r}: the name of this file tells no family; expected "
            f"FAMILY:{spec.start}, with one of the families {known}"
        )
    return (
        f"model {spec.text!r} is neither a directory nor a model of this package: "
        f"{', '.join((*bundled_models(), *_TOYS))}; models of other projects are FAMILY:FILE or "
        f"FAMILY:NAME, with one of the families {known}"
    )


def _load_directory(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    name: str | None,
    sha256: str | None = None,
) -> LoadedModel:
    metadata = _read_metadata(directory)
    _check_weights(directory, metadata, sha256)
    dtype = dtype or _parse_dtype(metadata["dtype"])
    load_potential = _find_loader(directory, metadata["architecture"])
    try:
        potential = load_potential(directory, metadata, device, dtype)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(f"{directory}: {type(error).__name__}: {error}") from error
    if isinstance(potential, torch.nn.Module):
        potential.eval().requires_grad_(False)
    _check_declared(directory, metadata, potential)
    card = directory / "CARD.md"
    info = _describe(
        potential,
        name=name or metadata["name"],
        version=str(metadata["version"]),
        sha256=metadata["sha256"],
        architecture=metadata["architecture"],
        n_parameters=int(metadata.get("n_parameters", 0)),
        metadata=metadata,
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
    )
    return LoadedModel(info, potential)


def _read_metadata(directory: Path) -> dict[str, Any]:
    path = directory / "model.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"{directory}: no model.json in this directory") from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ModelLoadError(f"{path}: expected a JSON object, got {type(metadata).__name__}")
    keys = ("name", "version", "architecture", "cutoff", "elements", "dtype", "outputs", "sha256")
    if missing := [key for key in keys if key not in metadata]:
        raise ModelLoadError(f"{path}: missing {', '.join(missing)}")
    return metadata


def _check_weights(directory: Path, metadata: dict[str, Any], expected: str | None) -> None:
    """Raise unless the weights have the hash in model.json, and the expected one if there is."""
    path = directory / "model.safetensors"
    if not path.is_file():
        raise ModelLoadError(f"{directory}: no model.safetensors in this directory")
    if (sha256 := file_sha256(path)) != metadata["sha256"]:
        raise ModelLoadError(
            f"{path}: its SHA-256 is {sha256}, expected {metadata['sha256']} as in model.json"
        )
    if expected not in (None, sha256):
        raise ModelLoadError(f"{path}: its SHA-256 is {sha256}, expected {expected}")


def _find_loader(directory: Path, architecture: str) -> Loader:
    third_party = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if architecture in _BUILT_IN:
        reference = _BUILT_IN[architecture]
    elif architecture in third_party:
        reference = third_party[architecture].value
    else:
        known = ", ".join(sorted({*_BUILT_IN, *third_party}))
        raise ModelLoadError(
            f"{directory}: architecture: expected one of {known}, got {architecture!r}"
        )
    try:
        loader: Loader = EntryPoint(architecture, reference, ENTRY_POINT_GROUP).load()
    except (ImportError, AttributeError) as error:
        raise ModelLoadError(
            f"{directory}: cannot import the loader {reference}: {error}"
        ) from error
    return loader


def _check_declared(directory: Path, metadata: dict[str, Any], potential: Potential) -> None:
    """Raise unless the declarations in model.json match the potential."""
    declared = {
        "cutoff": (float(metadata["cutoff"]), float(potential.cutoff)),
        "elements": (sorted(metadata["elements"]), sorted(potential.elements)),
        "outputs": (sorted(metadata["outputs"]), sorted(potential.outputs)),
    }
    for key, (stated, actual) in declared.items():
        if stated != actual:
            raise ModelLoadError(
                f"{directory / 'model.json'}: {key}: expected {actual} as in the potential, "
                f"got {stated}"
            )


def _load_toy(
    spec: str, device: torch.device, dtype: torch.dtype | None, name: str | None
) -> LoadedModel:
    potential = _TOYS[spec](dtype=dtype or torch.float64, device=device)
    parameters = " ".join(map(str, (spec, *potential.parameters.values())))
    info = _describe(
        potential,
        name=name or spec,
        version="1",
        sha256=hashlib.sha256(parameters.encode()).hexdigest(),
        architecture=spec,
        n_parameters=0,
        metadata={name: str(value) for name, value in potential.parameters.items()},
        card=f"# {spec}\n\n{_TOYS[spec].__doc__}",
    )
    return LoadedModel(info, potential)


def _compose(conservative: LoadedModel, direct: LoadedModel, name: str | None) -> LoadedModel:
    potential = Composed(conservative.potential, direct.potential)
    info = compose_info(conservative.info, direct.info, name or "")
    return LoadedModel(info, potential)


def _describe(potential: Potential, **facts: Any) -> ModelInfo:
    outputs = tuple(name for name in OUTPUTS if name in potential.outputs)
    return ModelInfo(
        cutoff=float(potential.cutoff),
        elements=tuple(sorted(potential.elements)),
        dtype=str(potential.dtype).removeprefix("torch."),
        device=str(potential.device),
        outputs=outputs,
        uses_charge=potential.uses_charge,
        uses_spin=potential.uses_spin,
        units={output: UNITS[output] for output in outputs},
        **facts,
    )


def _parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    known = _DTYPES.get(str(dtype).removeprefix("torch."))
    if known is None:
        raise ModelLoadError(f"dtype: expected {' or '.join(_DTYPES)}, got {dtype}")
    return known
