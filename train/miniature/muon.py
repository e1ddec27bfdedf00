"""Muon (Jordan et al., 2024; scaled as in arXiv:2502.16982): momentum made orthogonal before the step.

It reaches a given loss in fewer samples than AdamW when a network is trained from nothing, which is what counts where
samples are expensive. Matrices and convolutions take it; vectors, embeddings and the first and last layer take AdamW.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of (k n m) matrices towards 1 by a quintic Newton-Schulz iteration.

    In bfloat16: the iteration heals its own rounding, and the result only has to be roughly orthogonal.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two or more dimensions, viewed as (n, everything else).

    lr is on AdamW's scale: an update has a root mean square of 0.2 lr. Weights of equal shape are orthogonalised
    together.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[(p.shape[0], p.numel() // p.shape[0])].append(p)
            for (n, m), params in alike.items():
                self._move(group, params, (n, m))

    def _move(self, group: dict, params: list[nn.Parameter], shape: tuple[int, int]) -> None:
        beta = group["momentum"]
        directions = []
        for p in params:
            momentum = self.state[p].setdefault("momentum", torch.zeros(shape, device=p.device))
            grad = p.grad.reshape(shape).float() if p.grad is not None else momentum
            momentum.lerp_(grad, 1 - beta)
            directions.append(grad.lerp(momentum, beta))
        moves = orthogonalise(torch.stack(directions)) * (0.2 * max(shape) ** 0.5)
        for p, move in zip(params, moves, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(move.reshape(p.shape).to(p.dtype), alpha=-group["lr"])


def split(module: nn.Module, plain: tuple[str, ...]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters for Muon and those for AdamW; names holding one of `plain` go to the latter."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in module.named_parameters():
        hidden = p.ndim >= 2 and not any(word in name for word in plain)
        (matrices if hidden else others).append(p)
    return matrices, others
