"""AdamW whose moments take one byte each instead of four.

8-bit optimizers (arXiv:2110.02861): a moment is kept as one of 256 values times the largest of its block, and every
step computes in float32 between reading and writing them (section 2.1). The values are those of dynamic quantization
(section 1.3), dense near 1 and reaching down to a millionth. Departures: blocks are 256 long, as in its authors' later
releases, and not 2048; of the second moment the root is kept, which spans half as many powers of ten, and one above
zero stays so, since it is divided by; embeddings are no exception.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256  # numbers that share a scale
WIDENED_AT_ONCE = 2**22  # numbers that are widened at once: 17 MB of float32
WIDE_EACH = 10  # how many float32 or int32 of each there are meanwhile
DECADES = 7


class SmallMomentsAdamW(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101, algorithm 2) with moments in 8 bits; what each parameter has: `small_moment_shapes`."""

    def __init__(self, params: Iterable[Any], betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(params, {"betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def begin(self, parameter: Tensor) -> None:
        """Moments that are all zero, unless there are some."""
        state = self.state[parameter]
        shapes = {} if state else small_moment_shapes(tuple(parameter.shape))
        for key, (shape, dtype) in shapes.items():
            state[key] = torch.zeros(shape, dtype=dtype, device="cpu" if key == "step" else parameter.device)

    def go_on(self, parameter: Tensor, moments: Mapping[str, Tensor]) -> None:
        """With these moments, as they were. Torch's own way of it would widen them."""
        self.begin(parameter)
        for key, value in self.state[parameter].items():
            value.copy_(moments[key])

    def _move(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        """Piece by piece, so that no parameter is widened whole."""
        self.begin(parameter)
        state = self.state[parameter]
        state["step"] += 1
        (first, second), step = group["betas"], state["step"].item()
        corrections = 1 - first**step, 1 - second**step
        values, gradient = parameter.view(-1), gradient.reshape(-1)
        for start in range(0, len(values), WIDENED_AT_ONCE):
            piece = slice(start, start + WIDENED_AT_ONCE)
            blocks = slice(start // BLOCK, (start + WIDENED_AT_ONCE) // BLOCK)
            mean = SmallMoment(state["exp_avg"].view(-1)[piece], state["exp_avg_scale"][blocks], signed=True)
            root = SmallMoment(state["exp_avg_sq"].view(-1)[piece], state["exp_avg_sq_scale"][blocks], signed=False)
            g = gradient[piece].to(torch.float32)
            m = mean.read().lerp_(g, 1 - first)
            v = root.read().square_().mul_(second).addcmul_(g, g, value=1 - second)
            spread = v.sqrt_()
            mean.write(m)
            root.write(spread)
            moved = m.div_(spread.div_(corrections[1] ** 0.5).add_(group["eps"]))
            values[piece].mul_(1 - group["lr"] * group["weight_decay"])
            values[piece].sub_(moved.to(values.dtype), alpha=group["lr"] / corrections[0])


class SmallMoment:
    """A moment, or a piece of it: codes (n,), uint8, and the scale of every BLOCK of them."""

    def __init__(self, codes: Tensor, scales: Tensor, signed: bool) -> None:
        self.codes, self.scales, self.signed = codes, scales, signed

    def read(self) -> Tensor:
        """The numbers (n,), float32."""
        table, _ = code_values(self.signed, self.codes.device)
        return _scaled(table[self.codes.int()], self.scales)

    def write(self, numbers: Tensor) -> None:
        """Keep the nearest that there are of these."""
        _, between = code_values(self.signed, self.codes.device)
        rows = F.pad(numbers, (0, -len(numbers) % BLOCK)).view(-1, BLOCK)
        self.scales.copy_(rows.abs().amax(dim=1))
        shares = rows / self.scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        codes = torch.bucketize(shares, between, out_int32=True)
        if not self.signed:
            codes = codes.maximum((rows > 0).int())
        self.codes.copy_(codes.view(-1)[: len(numbers)])


def _scaled(numbers: Tensor, scales: Tensor) -> Tensor:
    """Each number times the scale of its block; the last block may be shorter."""
    whole = len(numbers) // BLOCK * BLOCK
    numbers[:whole].view(-1, BLOCK).mul_(scales[: whole // BLOCK, None])
    if whole < len(numbers):
        numbers[whole:].mul_(scales[-1])
    return numbers


@cache
def code_values(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The 256 values in their order, and the 255 places between neighbours.

    Each power of ten has twice as many as the one below it, evenly spaced: 64 or 128 from 0.1 to 1.
    """
    values = [0.0, 1.0]
    for decade in range(DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1, dtype=torch.float64)
        found = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade + 1 - DECADES)).tolist()
        values += [*found, *(-value for value in found if signed)]
    table = torch.tensor(sorted(values), dtype=torch.float64)
    return table.float().to(device), ((table[:-1] + table[1:]) / 2).float().to(device)


def small_moment_shapes(shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What a parameter of that shape has: shape and dtype of its step, moments and their scales."""
    blocks = -(-torch.Size(shape).numel() // BLOCK)
    return {
        "step": ((), torch.float32),
        **dict.fromkeys(("exp_avg", "exp_avg_sq"), (shape, torch.uint8)),
        **dict.fromkeys(("exp_avg_scale", "exp_avg_sq_scale"), ((blocks,), torch.float32)),
    }


def small_moment_bytes(shape: tuple[int, ...]) -> int:
    """What all that takes."""
    return sum(torch.Size(own).numel() * dtype.itemsize for own, dtype in small_moment_shapes(shape).values())
