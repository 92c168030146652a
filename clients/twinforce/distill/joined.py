"""One hybrid out of two services: conservative forces of one model, direct ones of another."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from twinforce._client import Client, Stream
from twinforce._systems import SystemLike, as_systems, is_one_system
from twinforce._weights import ServedWeights
from twinforce_proto import (
    OUTPUTS,
    UNITS,
    ModelInfo,
    Prediction,
    Provenance,
    Timings,
    UnknownModelError,
    parse_outputs,
)
from twinforce_proto.outputs import DIRECT_OUTPUTS

_FIELDS = tuple(OUTPUTS)


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model of a service.

    Attributes:
        client: Client of the service.
        info: Description of the model.
    """

    client: Client
    info: ModelInfo

    def check(self, prediction: Prediction) -> None:
        """Check that a prediction is from the weights that the service began with.

        Raises:
            ModelChangedError: It is from others.
        """
        weights = ServedWeights.of(self.info)
        if prediction.provenance is not None:
            found = ServedWeights.of(prediction.provenance)
            if found != weights:
                remedy = "serve those again to continue"
                raise weights.changed_to(found, "which this began with", remedy)


class JoinedClient:
    """A client of one model composed of two, each of which has a service of its own.

    It has those methods of `Client` that calculators and assessments use, so that any calculator
    or assessment works with it. Energy, conservative forces and conservative stress are those of
    one model, direct ones those of the other.

    Args:
        conservative: Model of the energy.
        direct: Model of the direct forces; None for a model without any.
        name: Name of the composed model.
        has_stress: True to compute the conservative stress whenever conservative forces are.
    """

    def __init__(
        self,
        conservative: ServedModel,
        direct: ServedModel | None,
        *,
        name: str = "hybrid",
        has_stress: bool = False,
    ) -> None:
        self.conservative, self.direct = conservative, direct
        self.has_stress = has_stress
        self._info = _joined_info(name, conservative.info, None if direct is None else direct.info)

    @property
    def url(self) -> str:
        """Addresses of both services."""
        parts = [self.conservative, *([self.direct] if self.direct else [])]
        return " + ".join(part.client.url for part in parts)

    def model(self, name: str | None = None) -> ModelInfo:
        """Return the description of the composed model.

        Raises:
            UnknownModelError: It has another name.
        """
        if name not in (None, self._info.name):
            raise UnknownModelError(f"model: expected {self._info.name!r}, got {name!r}")
        return self._info

    def predict(
        self, systems: Any, outputs: str | Sequence[str], model: str | None = None
    ) -> Prediction | list[Prediction]:
        """Evaluate one system, or several in one request to each service."""
        self.model(model)
        is_one = is_one_system(systems)
        several = as_systems([systems] if is_one else systems)
        found = [Prediction() for _ in several]
        for part, asked in self.parts_of(outputs):
            predictions = part.client.predict(several, asked, part.info.name)
            for index, prediction in enumerate(predictions):
                part.check(prediction)
                found[index] = _added(found[index], prediction)
        found = [self.labeled(each) for each in found]
        return found[0] if is_one else found

    def stream(self, model: str | None = None, outputs: str | Sequence[str] = ()) -> "JoinedStream":
        """Return a stream for a walker, whose systems differ in coordinates only."""
        del outputs
        self.model(model)
        return JoinedStream(self)

    def parts_of(self, outputs: str | Sequence[str]) -> list[tuple[ServedModel, tuple[str, ...]]]:
        """Return the models that provide these outputs, each with those to ask it for."""
        wanted = frozenset(parse_outputs(outputs))
        conservative = wanted - DIRECT_OUTPUTS
        if self.has_stress and "conservative_forces" in wanted:
            conservative |= {"conservative_stress"}
        parts = []
        if conservative:
            parts.append((self.conservative, tuple(sorted(conservative))))
        if wanted & DIRECT_OUTPUTS and self.direct is not None:
            parts.append((self.direct, tuple(sorted(wanted & DIRECT_OUTPUTS))))
        return parts

    def labeled(self, prediction: Prediction) -> Prediction:
        """Return a prediction with the provenance of the composed model."""
        source = prediction.provenance
        assert source is not None
        info = self._info
        own = Provenance(
            model=info.name,
            version=info.version,
            sha256=info.sha256,
            dtype=info.dtype,
            device=info.device,
            service_version=source.service_version,
        )
        return replace(prediction, provenance=own)


class JoinedStream:
    """The streams of one walker to both services.

    Args:
        client: The client of both.
    """

    def __init__(self, client: JoinedClient) -> None:
        self._client = client
        self._streams: dict[str, Stream] = {}

    def predict(self, system: SystemLike, outputs: str | Sequence[str] | None = None) -> Prediction:
        """Evaluate the next system."""
        found = Prediction()
        for part, asked in self._client.parts_of(outputs or ("energy",)):
            key = "direct" if part is self._client.direct else "conservative"
            stream = self._streams.setdefault(key, part.client.stream(part.info.name))
            prediction = stream.predict(system, asked)
            part.check(prediction)
            found = _added(found, prediction)
        return self._client.labeled(found)

    def close(self) -> None:
        """End the streams."""
        for stream in self._streams.values():
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _added(before: Prediction, other: Prediction) -> Prediction:
    """Return a prediction with what another one has, and the time that both took."""
    values = {name: value for name in _FIELDS if (value := getattr(other, name)) is not None}
    timings = other.timings
    if before.timings is not None and timings is not None:
        timings = Timings(
            before.timings.queue_s + timings.queue_s,
            before.timings.compute_s + timings.compute_s,
            timings.batch_n_systems,
            timings.batch_n_atoms,
            timings.queue_n_atoms,
        )
    return replace(
        before,
        provenance=before.provenance or other.provenance,
        timings=timings,
        **values,
    )


def _joined_info(name: str, conservative: ModelInfo, direct: ModelInfo | None) -> ModelInfo:
    """Return the description of a composed model, as the service describes one."""
    own = [each for each in conservative.outputs if each not in DIRECT_OUTPUTS]
    if direct is None:
        return replace(conservative, name=name, outputs=tuple(own), metadata={}, card="")
    outputs = {*own, *(each for each in direct.outputs if each in DIRECT_OUTPUTS)}
    ordered = tuple(each for each in OUTPUTS if each in outputs)
    hashes = f"{conservative.sha256} {direct.sha256}"
    return ModelInfo(
        name=name,
        version=f"{conservative.version}+{direct.version}",
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        architecture=f"{conservative.architecture}+{direct.architecture}",
        cutoff=max(conservative.cutoff, direct.cutoff),
        elements=tuple(sorted({*conservative.elements} & {*direct.elements})),
        dtype=conservative.dtype,
        device=conservative.device,
        outputs=ordered,
        n_parameters=conservative.n_parameters + direct.n_parameters,
        uses_charge=conservative.uses_charge,
        uses_spin=conservative.uses_spin,
        units={each: UNITS[each] for each in ordered},
    )
