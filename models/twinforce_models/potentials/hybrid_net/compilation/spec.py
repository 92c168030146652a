"""What is compiled, and what a compiled part takes."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor

from twinforce_models.potentials.hybrid_net.core import HybridCore, Hyperparameters

Part = Literal["direct", "hybrid"]

MIN_SIZE = 2
"""Atoms and neighbors that a compiled part takes at least; one of either would be special."""

MAX_ENTRIES = 2**31
"""Entries of its largest array, which are counted in 32 bits on a GPU."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is compiled.

    Attributes:
        part: "direct" for what needs no derivative, "hybrid" for everything.
        hyperparameters: Of the network.
        dtype: Such as "float32".
        device: Such as "cpu" or "cuda:0".
        n_threads: Of the CPU, for one operation.
    """

    part: Part
    hyperparameters: Hyperparameters
    dtype: str
    device: str
    n_threads: int

    def to_json(self) -> str:
        """Return it as JSON, for `from_json`."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        """Return what `to_json` wrote."""
        content = json.loads(text)
        h = content["hyperparameters"]
        content["hyperparameters"] = Hyperparameters(**(h | {"elements": tuple(h["elements"])}))
        return cls(**content)

    @property
    def has_reverse(self) -> bool:
        """Whether `Inputs.reverse` is given: where adding up would not always give the same."""
        return self.part == "hybrid" and not self.device.startswith("cpu")

    @property
    def max_slots(self) -> int:
        """How many atoms times neighbors are taken at most."""
        h = self.hyperparameters
        return MAX_ENTRIES // (h.n_scalars + 2 * h.n_vectors + 2 * h.n_tensors)


def named_weights(core: HybridCore) -> dict[str, Tensor]:
    """Return what a compiled part takes before its `Inputs`, in this order."""
    parameters = {name: value.detach() for name, value in core.named_parameters()}
    return parameters | {"energy_scale": core.energy_scale, "force_scale": core.force_scale}
