"""The weights that a run began with, to notice others, under the same name of a model or not."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from twinforce_proto import ModelChangedError, ModelInfo, Provenance

_SHORT = 12
_LOG = logging.getLogger(__name__)


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


class KeptWeights:
    """The weights that something began with, which later replies must have too.

    Args:
        where: Phrase that says where these weights are known from.
        remedy: Phrase that says how to go on with others all the same.
        weights: The weights; None means those of the first reply.

    Attributes:
        weights: Weights of the last reply that was accepted; None before the first.
    """

    def __init__(self, where: str, remedy: str, weights: ServedWeights | None = None) -> None:
        self.weights = weights
        self._where = where
        self._remedy = remedy

    def check(self, source: Provenance | ModelInfo | None, *, allow_others: bool) -> bool:
        """Check the weights of a reply; return True if it has others, which are kept from now on.

        Args:
            source: Provenance of the reply, if it has one.
            allow_others: True to log a warning in place of the error.

        Raises:
            ModelChangedError: They are others, which is not allowed.
        """
        if source is None:
            return False
        found = ServedWeights.of(source)
        before, is_other = self.weights, self.weights not in (None, found)
        if before is not None and is_other:
            error = before.changed_to(found, self._where, self._remedy)
            if not allow_others:
                raise error
            _LOG.warning("%s", error)
        self.weights = found
        return is_other
