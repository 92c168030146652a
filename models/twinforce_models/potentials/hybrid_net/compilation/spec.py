"""The parts of the network that are compiled, and their inputs."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor

from twinforce_models.potentials.hybrid_net.core import HybridCore, Hyperparameters

Part = Literal["direct", "hybrid"]

MIN_SIZE = 2
"""Smallest number of atoms and neighbors of a compiled part; torch.export specializes size one."""

MAX_ENTRIES = 2**31
"""Entries of the largest array, which are counted in 32 bits on a GPU."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A part of the network to compile.

    Attributes:
        part: "direct" for the heads alone, "hybrid" for the heads and the gradient of the energy.
        hyperparameters: Hyperparameters of the network.
        dtype: Such as "float32".
        device: Such as "cpu" or "cuda:0".
        n_threads: Number of CPU threads that one operation may use; 0 leaves it to torch.
        level: Level of processors that it runs on, such as "x86-64-v3"; empty for this very one.
    """

    part: Part
    hyperparameters: Hyperparameters
    dtype: str
    device: str
    n_threads: int
    level: str = ""

    def to_json(self) -> str:
        """Return the spec as JSON, for `from_json`."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        """Return the spec that `to_json` wrote."""
        content = json.loads(text)
        content["hyperparameters"] = Hyperparameters.from_values(content["hyperparameters"])
        return cls(**content)

    @property
    def has_reverse(self) -> bool:
        """True if `Inputs.reverse` is an input: where a scatter would not be reproducible."""
        return self.part == "hybrid" and not self.device.startswith("cpu")

    @property
    def max_slots(self) -> int:
        """Largest number of atoms times neighbors of a batch."""
        h = self.hyperparameters
        return MAX_ENTRIES // (h.n_scalars + 2 * h.n_vectors + 2 * h.n_tensors)


def named_weights(core: HybridCore) -> dict[str, Tensor]:
    """Return the weights that a compiled part takes before its `Inputs`, in this order.

    All parameters and buffers are among them, since a tracer accepts no tensor of its own.
    """
    parameters = {name: value.detach() for name, value in core.named_parameters()}
    return parameters | dict(core.named_buffers())
