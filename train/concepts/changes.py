"""What a concept does to a parameter, and the one function that does it.

Four kinds: values of its own (DreamBooth), something added (Custom Diffusion's keys and values), a product of two thin
matrices added (LoRA, arXiv:2106.09685, eq. 3), and rows of the token embedding (Textual Inversion).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Replaced:
    """The parameter has these values now."""

    values: Tensor = field(repr=False)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By the name that a file has for them."""
        return {"": self.values}

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of that shape can be changed so."""
        return tuple(self.values.shape) == shape


@dataclass(frozen=True, eq=False)
class Added:
    """scale x values are added."""

    values: Tensor = field(repr=False)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By the name that a file has for them."""
        return {"/added": self.values}

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of that shape can be changed so."""
        return tuple(self.values.shape) == shape


@dataclass(frozen=True, eq=False)
class LowRank:
    """scale x alpha / rank x up @ down is added, to a linear layer (o i) or a convolution (o i h w).

    up: (o rank) or (o rank 1 1). down: (rank i), (rank i 1 1) for what is linear in either way of writing it, or for
    any other convolution (rank i h w).
    """

    up: Tensor = field(repr=False)
    down: Tensor = field(repr=False)
    alpha: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By the name that a file has for them."""
        return {"/up": self.up, "/down": self.down, "/alpha": torch.tensor(self.alpha, dtype=torch.float32)}

    @property
    def rank(self) -> int:
        """Columns of up, rows of down."""
        return self.up.shape[1]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of that shape can be changed so."""
        if not all(m.ndim in (2, 4) for m in (self.up, self.down)) or len(shape) < 2:
            return False
        kernels = [tuple(side for side in sides if side != 1) for sides in (self.down.shape[2:], shape[2:])]
        flat = set(self.up.shape[2:]) <= {1} and kernels[0] == kernels[1]
        return flat and self.rank == len(self.down) and (len(self.up), self.down.shape[1]) == shape[:2]


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows (n c) of the token embedding, at these ids; ids from its end on, without a gap, make it longer."""

    ids: tuple[int, ...]
    rows: Tensor = field(repr=False)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The rows; a file has them by their word."""
        return {"/rows": self.rows}

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of that shape can be changed so."""
        return tuple(self.rows.shape) == (len(self.ids), *shape[1:])


Change: TypeAlias = Replaced | Added | LowRank | TokenRows


@torch.no_grad()
def changed(weight: Tensor, changes: Sequence[tuple[Change, float]]) -> Tensor:
    """The parameter after some changes, each with its scale: in a tensor of its own, same device and dtype.

    The order does not matter: values of its own come first, at most one change has them, and to those the others add
    up, in float32 or wider. A tensor that replaces all of it, and needs no conversion, is taken as it is.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    replaced = [change.values for change, _ in changes if isinstance(change, Replaced)]
    if replaced and len(changes) == 1:
        return replaced[0].to(weight.device, weight.dtype)
    result = (replaced or [weight])[0].to(weight.device, wide, copy=True)
    for change, scale in changes:
        if isinstance(change, Added):
            result.add_(change.values.to(result), alpha=scale)
        elif isinstance(change, LowRank):
            up, down = (m.to(result).flatten(1) for m in (change.up, change.down))
            result.add_((up @ down).reshape(result.shape), alpha=scale * change.alpha / change.rank)
        elif isinstance(change, TokenRows):
            new = max(change.ids) + 1 - len(result)
            result = torch.cat([result, result.new_zeros(max(0, new), *result.shape[1:])])
            result[list(change.ids)] = change.rows.to(result)
    return result.to(weight.dtype)
