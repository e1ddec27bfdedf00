"""Makers of hooks: what a swap does at one attention site (Photoswap, section 3.3 and Algorithm 1).

Source and target run in one batch, so a swap is a gather: rows[i] is the row that row i borrows from. With rows ordered
uncond source, uncond target, cond source, cond target, [0, 0, 2, 2] swaps in both guidance halves and [0, 1, 2, 2] in
the conditional half only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.hooks import Hook

from .tokens import Alignment


def swap_output(rows: Sequence[int]) -> Hook:
    """phi_target := phi_source: borrow what attention gathered, before the output projection."""
    rows = list(rows)
    return Hook(output=lambda out: out[rows])


def swap_map(rows: Sequence[int]) -> Hook:
    """M_target := M_source, or A := A column for column at a cross site, by borrowing q and k: no map is built."""
    rows = list(rows)
    return Hook(qkv=lambda q, k, v: (q[rows], k[rows], v))


def swap_cross_map(rows: Sequence[int], alignment: Alignment) -> Hook:
    """A_target := A_source in the columns of tokens that both prompts share; the other columns stay the target's.

    Rows that borrow from themselves stay bitwise as they were. Columns are not rescaled to sum to one again, as in
    Prompt-to-Prompt's refinement (arXiv:2208.01626, section 3.2), which this is.
    """
    rows = list(rows)
    borrows = torch.tensor([row != i for i, row in enumerate(rows)])
    taken = borrows[:, None, None, None] & alignment.shared

    def edit(probabilities: Tensor) -> Tensor:
        borrowed = probabilities[rows][..., alignment.columns.to(probabilities.device)]
        return torch.where(taken.to(probabilities.device), borrowed, probabilities)

    return Hook(map=edit)
