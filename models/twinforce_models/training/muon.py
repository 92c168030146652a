"""The optimizer Muon, which may need fewer steps than AdamW."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

_MOMENTUM = 0.95
_SMALLEST_SIDE = 8
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_N_ITERATIONS = 5
_BETAS = (0.9, 0.99)
_EPSILON = 1e-8


class Muon(torch.optim.Optimizer):
    """Steps of matrices along the nearest semi-orthogonal matrix to their momentum.

    Such a step changes all directions of a matrix by the same length (Jordan et al., Muon, 2024).
    It is scaled by 0.2 √max(rows, columns), so that its elements are as large as those of a step of
    AdamW and the same learning rates suit both (Liu et al., arXiv 2502.16982). Parameters that are
    not matrices, and matrices with fewer than 8 rows or columns, take steps of AdamW.
    `torch.optim.Muon` takes matrices alone and iterates in bfloat16.
    """

    def __init__(self, parameters: Iterable[Tensor], weight_decay: float) -> None:
        """Take the parameters and the weight decay; the learning rate is 0 until it is set."""
        super().__init__(parameters, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients; parameters without one keep their values."""
        del closure
        for group in self.param_groups:
            of_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                if _is_matrix(parameter):
                    of_shape.setdefault(tuple(parameter.shape), []).append(parameter)
                else:
                    self._step_by_adam(parameter, group["lr"])
            for matrices in of_shape.values():
                self._step_matrices(matrices, group["lr"])

    def _step_matrices(self, matrices: Sequence[Tensor], rate: float) -> None:
        """Take a step with matrices of one shape."""
        directions = []
        for matrix in matrices:
            gradient, state = matrix.grad, self.state[matrix]
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(matrix)
            state["momentum"].lerp_(gradient, 1.0 - _MOMENTUM)
            directions.append(gradient.lerp(state["momentum"], _MOMENTUM))
        scale = 0.2 * math.sqrt(max(matrices[0].shape))
        for matrix, change in zip(matrices, orthogonalized(torch.stack(directions)), strict=True):
            matrix.add_(change, alpha=-rate * scale)

    def _step_by_adam(self, parameter: Tensor, rate: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            zeros = torch.zeros_like
            state |= {"n_steps": 0, "mean": zeros(parameter), "square": zeros(parameter)}
        state["n_steps"] += 1
        first, second = _BETAS
        state["mean"].lerp_(gradient, 1.0 - first)
        state["square"].lerp_(gradient.square(), 1.0 - second)
        mean = state["mean"] / (1.0 - first ** state["n_steps"])
        square = state["square"] / (1.0 - second ** state["n_steps"])
        parameter.addcdiv_(mean, square.sqrt() + _EPSILON, value=-rate)


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) >= _SMALLEST_SIDE


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrices, approximately: singular values of 0.7 to 1.2.

    A Newton-Schulz iteration with the coefficients of Jordan et al. makes the singular values
    nearly equal; very small ones stay smaller.

    Args:
        matrices: Shape [n, rows, columns].
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-12)
    for _ in range(_N_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x
