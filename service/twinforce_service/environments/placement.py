"""Decide which environment serves which model, by the option `env` of the specs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from twinforce_models.loading.composition import compose_spec, parse_composed_spec
from twinforce_models.loading.spec import split_option
from twinforce_service.environments.environment import MAIN


@dataclass(frozen=True, slots=True)
class PlacedModel:
    """A model in an environment.

    Attributes:
        environment: Name of the environment.
        name: Name of the model there.
    """

    environment: str
    name: str


@dataclass(frozen=True, slots=True)
class SplitParts:
    """The two parts of a hybrid that live in different environments."""

    conservative: PlacedModel
    direct: PlacedModel


@dataclass(frozen=True, slots=True)
class Placement:
    """The environments that a service needs, and what each of them serves.

    Attributes:
        specs: Specs by the name of the model, by the name of the environment.
        models: Place of each served model by its name; two places for a split hybrid.
    """

    specs: dict[str, dict[str, str]] = field(default_factory=dict)
    models: dict[str, PlacedModel | SplitParts] = field(default_factory=dict)


def place(specs: Mapping[str, str]) -> Placement:
    """Return the places of models.

    A part of a split hybrid that is also served as a model is not loaded twice. Otherwise it has
    the name of the hybrid with a suffix that no client can ask for.

    Args:
        specs: Specs by name, in the order in which the models are listed.

    Raises:
        ModelLoadError: A spec cannot be parsed.
    """
    placement = Placement()
    parts = {name: _parts(spec) for name, spec in specs.items()}
    for name, places in parts.items():
        if len(places) == 1:
            ((environment, spec),) = places
            placement.specs.setdefault(environment, {})[name] = spec
            placement.models[name] = PlacedModel(environment, name)
        else:
            placement.models[name] = PlacedModel(MAIN, name)  # keeps the order
    for name, places in parts.items():
        if len(places) == 2:
            kinds = ("conservative", "direct")
            placement.models[name] = SplitParts(
                *(
                    _place_part(placement, environment, f"{name}#{kind}", spec)
                    for kind, (environment, spec) in zip(kinds, places, strict=True)
                )
            )
    return placement


def environments_of(specs: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the environments that each model runs in: two for a split hybrid.

    Args:
        specs: Specs by name.

    Raises:
        ModelLoadError: A spec cannot be parsed.
    """
    return {
        name: tuple(environment for environment, _ in _parts(spec)) for name, spec in specs.items()
    }


def _parts(spec: str) -> list[tuple[str, str]]:
    """Return environment and spec of a model, or of each part of a hybrid in two environments."""
    if (composed := parse_composed_spec(spec)) is None:
        return [_split(spec)]
    conservative, direct = map(_split, composed)
    if conservative[0] != direct[0]:
        return [conservative, direct]
    return [(conservative[0], compose_spec(conservative[1], direct[1]))]


def _split(spec: str) -> tuple[str, str]:
    rest, environment = split_option(spec, "env")
    return environment or MAIN, rest


def _place_part(placement: Placement, environment: str, name: str, spec: str) -> PlacedModel:
    there = placement.specs.setdefault(environment, {})
    for known, other in there.items():
        if other == spec:
            return PlacedModel(environment, known)
    there[name] = spec
    return PlacedModel(environment, name)
