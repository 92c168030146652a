"""The weights that a run began with, to notice others, under the same name of a model or not."""

from collections.abc import Mapping
from dataclasses import dataclass

from twinforce_proto import ModelChangedError, ModelInfo, Provenance

_SHORT = 12


@dataclass(frozen=True, slots=True)
class ServedWeights:
    """The weights of a served model.

    Attributes:
        model: Name of the model.
        sha256: SHA-256 of the weights, in hexadecimal.
    """

    model: str
    sha256: str

    @classmethod
    def of(cls, source: Provenance | ModelInfo) -> "ServedWeights":
        """Return the weights that made a prediction, or those that a service declares."""
        name = source.name if isinstance(source, ModelInfo) else source.model
        return cls(name, source.sha256)

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> "ServedWeights":
        """Return the weights of which `dataclasses.asdict` made these values."""
        return cls(str(values["model"]), str(values["sha256"]))

    def __str__(self) -> str:
        return f"{self.model!r} ({self.sha256[:_SHORT]})"

    def changed_to(self, found: "ServedWeights", where: str, remedy: str) -> ModelChangedError:
        """Return the error of a run that finds other weights.

        Args:
            found: ServedWeights that the service has now.
            where: Phrase that says where these weights are known from.
            remedy: Phrase that says how to go on all the same.
        """
        text = f"model: expected the weights of {self}, {where}, got {found}; {remedy}"
        return ModelChangedError(text, field="model")
