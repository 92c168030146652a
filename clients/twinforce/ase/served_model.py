"""A model of a service as one walker uses it: its stream, its description and its weights."""

import copy
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinforce._client import Client, Stream
from twinforce._weights import KeptWeights, ServedWeights
from twinforce.ase.errors import as_calculator_errors
from twinforce_proto import ModelInfo, Prediction, Provenance, System

_NO_NUMBERS = np.zeros(0, dtype=np.int32)


class CalculatorModel:
    """The model that a calculator uses, from the first use or from when it is forgotten.

    Args:
        client: Client of the service.
        owns_client: True to close it in the end.
        allow_model_change: True to go on with other weights, with a logged warning.

    Attributes:
        name: Name of the model; None means the only one that is served, or else `water`.
        allow_model_change: As the argument; may be changed.
        kept: Weights that the model began with.
    """

    def __init__(self, client: Client, *, owns_client: bool, allow_model_change: bool) -> None:
        self.name: str | None = None
        self.allow_model_change = allow_model_change
        self.client = client
        self._owns_client = owns_client
        self._stream: Stream | None = None
        self._info: ModelInfo | None = None
        self._numbers: NDArray[np.int32] = _NO_NUMBERS
        self.kept = _kept_weights()

    @property
    def info(self) -> ModelInfo:
        """Description of the model."""
        return self.find() if self._info is None else self._info

    @property
    def weights(self) -> ServedWeights:
        """The weights that the model began with."""
        if self.kept.weights is None:
            self.find()
        assert self.kept.weights is not None
        return self.kept.weights

    def find(self) -> ModelInfo:
        """Ask the service for the model again, and return its description.

        Raises:
            ModelChangedError: It has other weights, which are not allowed.
        """
        info = self.client.model(self.name)
        self.check(info)
        self._info = info
        return info

    def check(self, source: Provenance | ModelInfo | None) -> None:
        """Check that a reply is from the weights that the first one was from.

        Raises:
            ModelChangedError: It is from others, which are not allowed.
        """
        if self.kept.check(source, allow_others=self.allow_model_change):
            self._info = None

    def follow(self, system: System, outputs: Collection[str]) -> Prediction:
        """Evaluate a system over the stream."""
        if self._stream is None:
            self._stream = self.client.stream(self.info.name)
        with as_calculator_errors():
            prediction = self._stream.predict(system, tuple(outputs))
        self.check(prediction.provenance)
        return prediction

    def evaluate(self, system: System, outputs: Collection[str]) -> Prediction:
        """Evaluate a system, over the stream if its atoms are those of the last one."""
        is_walker = np.array_equal(system.atomic_numbers, self._numbers)
        self._numbers = system.atomic_numbers
        if is_walker:
            return self.follow(system, outputs)
        name = self.info.name
        with as_calculator_errors():
            prediction = self.client.predict(system, tuple(outputs), name)
        self.check(prediction.provenance)
        return prediction

    def forget(self) -> None:
        """End the stream, and accept whichever weights the service has at the next use."""
        self.end_stream()
        self._info = None
        self._numbers = _NO_NUMBERS
        self.kept = _kept_weights()

    def end_stream(self) -> None:
        """End the stream; a later evaluation starts another one."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def close(self) -> None:
        """End the stream, and close the client if it is owned."""
        self.end_stream()
        if self._owns_client:
            self.client.close()

    def __getstate__(self) -> dict[str, Any]:
        own = {"client": copy.copy(self.client), "_owns_client": True, "_stream": None}
        return self.__dict__ | own | {"kept": copy.copy(self.kept)}


def _kept_weights() -> KeptWeights:
    remedy = "allow_model_change=True goes on with them, and reset() starts anew"
    return KeptWeights("which this calculator began with", remedy)
