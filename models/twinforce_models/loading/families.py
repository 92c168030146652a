"""The loading of a model with the loader of its family.

A family is a function, its loader. It takes a `Source` and, by keyword, the options that may follow
# in a spec, and returns a potential with those fields of `ModelInfo` that cannot be read off it:

    def load(source: Source, *, variant: str | None = None) -> tuple[Potential, dict[str, Any]]

The families themselves are in `catalog`.
"""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from twinforce_models.loading.catalog import Family, families
from twinforce_models.loading.side_effects import undone_side_effects
from twinforce_models.loading.source import Source
from twinforce_models.loading.spec import ModelSpec
from twinforce_models.potential import Potential
from twinforce_proto import ModelLoadError

FamilyLoader: TypeAlias = Callable[..., tuple[Potential, dict[str, Any]]]
"""(source, *, options) -> the potential, and fields of `ModelInfo`."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundModel:
    """A potential of a family.

    Attributes:
        potential: The potential, ready to be evaluated.
        facts: Fields of `ModelInfo` that cannot be read off the potential.
    """

    potential: Potential
    facts: dict[str, Any]


def find_family(spec: ModelSpec) -> Family | None:
    """Return the family that reads a model; None if the spec names no family and no such file.

    Raises:
        ModelLoadError: If there is no family of that name.
    """
    known = families()
    if spec.family is None:
        suffix = Path(spec.place).suffix
        return next((each for each in known.values() if suffix and each.suffix == suffix), None)
    if spec.family not in known:
        raise ModelLoadError(
            f"model {spec.text!r}: expected a family before the colon, one of "
            f"{', '.join(sorted(known))}, got {spec.family!r}"
        )
    return known[spec.family]


def load_family(family: Family, source: Source) -> FoundModel:
    """Load a model with the loader of its family.

    Args:
        family: The family.
        source: The model's place.

    Raises:
        ModelLoadError: If the model cannot be loaded, or the package that reads it is missing.
    """
    with undone_side_effects(), contextlib.redirect_stdout(sys.stderr):
        loader = _import(family)
        _check_options(family, loader, source.spec)
        try:
            potential, facts = loader(source, **source.spec.options)
        except ModelLoadError:
            raise
        except ImportError as error:
            raise _missing(family, error) from error
        except Exception as error:  # of the package that the family belongs to
            raise ModelLoadError(
                f"model {source.spec.text!r}: {type(error).__name__}: {error}"
            ) from error
    if source.spec.sha256 is not None and source.file is None:
        raise ModelLoadError(f"model {source.spec.text!r}: sha256: this model is not a file")
    if isinstance(potential, torch.nn.Module):
        potential.eval().requires_grad_(False)
    return FoundModel(potential, _default_facts(family, source) | _known(potential, facts, source))


def _default_facts(family: Family, source: Source) -> dict[str, Any]:
    facts: dict[str, Any] = {"architecture": family.name, "n_parameters": 0, "card": ""}
    if source.file is None:
        return facts
    sha256 = source.file.sha256
    return facts | {"name": source.file.path.stem, "version": sha256[:12], "sha256": sha256}


def _known(potential: Potential, facts: dict[str, Any], source: Source) -> dict[str, Any]:
    """Return the facts of a loader that are not empty, and complete the metadata."""
    metadata = {**facts.get("metadata", {}), **source.spec.options}
    if source.file is not None:
        metadata["file"] = source.file.path.name
    if exemptions := getattr(potential, "exemptions", ()):
        metadata["exemptions"] = [asdict(each) for each in exemptions]
    return {key: value for key, value in facts.items() if value} | {"metadata": metadata}


def _import(family: Family) -> FamilyLoader:
    module, _, name = family.loader.partition(":")
    try:
        loader: FamilyLoader = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise _missing(family, error) from error
    except Exception as error:  # of packages whose versions do not fit together
        raise _broken(family, f"{type(error).__name__}: {error}") from error
    return loader


def _missing(family: Family, error: Exception) -> ModelLoadError:
    if not family.extra:
        return _broken(family, str(error))
    pip = f"{sys.executable} -m pip install"
    alone = f" && {pip} --no-deps '{family.alone}'" if family.alone else ""
    return ModelLoadError(
        f"models of the family {family.name} need additional packages: "
        f"{pip} 'twinforce[{family.extra}]'{alone} ({error}). If they do not fit those here, add "
        f"#env={family.name} after 'twinforce-server env create {family.name}'"
    )


def _broken(family: Family, why: str) -> ModelLoadError:
    return ModelLoadError(f"cannot import the loader of {family.name}, {family.loader}: {why}")


def _check_options(family: Family, loader: FamilyLoader, spec: ModelSpec) -> None:
    parameters = inspect.signature(loader).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY} | {"sha256"}
    if unknown := sorted(spec.options.keys() - known):
        raise ModelLoadError(
            f"model {spec.text!r}: expected {' or '.join(sorted(known))} after #, for the family "
            f"{family.name}, got {', '.join(unknown)}"
        )
