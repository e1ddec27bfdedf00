"""Keeping the source's latents where the subject is not.

Two masks can say where that is. The attention-derived one is Prompt-to-Prompt's local blend (arXiv:2208.01626, section
3.2), which the released Photoswap applies and its paper does not mention: where the cross-attention maps of the
subject's words have been strong so far, in source or target, the target keeps its own latents. A user's mask says it
outright.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from models.hooks import Hook, Site, reading

COND_SOURCE, COND_TARGET = 2, 3


@dataclass(frozen=True)
class Blend:
    """Settings of the attention-derived blend.

    threshold: share of the strongest attention above which a place belongs to the subject, in (0, 1). start: the first
    step whose latents are blended, None for a fifth of all steps. scale: maps are read at the cross sites this many
    times smaller than the latents; 4 gives the five layers of the released code, 16 x 16 at 512 px.
    """

    threshold: float = 0.3
    start: int | None = None
    scale: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"the blend's threshold is {self.threshold}; want a share between 0 and 1")
        if self.start is not None and (not isinstance(self.start, int) or self.start < 0):
            raise ValueError(f"the blend starts at step {self.start}; want a whole number, 0 or more")
        if self.scale not in (1, 2, 4, 8):
            raise ValueError(f"the blend reads maps at scale {self.scale}; want 1, 2, 4 or 8")

    def start_at(self, steps: int) -> int:
        """The first blended step of so many."""
        return steps // 5 if self.start is None else self.start


def watching(blend: Blend, sites: Iterable[Site], words: tuple[Sequence[int], Sequence[int]], into: list) -> dict:
    """Hooks that append to a list, for each site read, how strongly every place looks at the subject.

    words: columns of the subject's tokens in the source's and in the target's prompt. Appended: (2 n) for source and
    target, summed over tokens, averaged over heads. Merge them behind the swaps to read the maps as they were used.
    """
    source, target = (list(columns) for columns in words)

    def look(probabilities: Tensor) -> None:
        rows = (probabilities[COND_SOURCE][..., source], probabilities[COND_TARGET][..., target])
        into.append(torch.stack([reduce(row, "h n m -> n", "sum") / row.shape[0] for row in rows]))

    watched = [site for site in sites if site.kind == "cross" and site.scale == blend.scale]
    if not watched:
        raise ValueError(f"the blend reads cross maps at scale {blend.scale}; this U-Net has none there")
    return {site: Hook(map=reading(look)) for site in watched}


def subject_mask(heat: Tensor, blend: Blend, size: tuple[int, int]) -> Tensor:
    """Where the subject is, from attention added up over layers and steps: (1 1 h w) bool.

    heat: (2 n), source and target, blend.scale times smaller than the latents a side. size: (h, w) of the latents. A
    3 x 3 maximum widens each map, each is measured against its own maximum, and the two masks are united.
    """
    maps = rearrange(heat, "b (h w) -> b 1 h w", w=size[1] // blend.scale)
    maps = F.interpolate(F.max_pool2d(maps, 3, stride=1, padding=1), size=size, mode="nearest")
    return (maps > blend.threshold * maps.amax(dim=(2, 3), keepdim=True)).any(dim=0, keepdim=True)


def keep_source(source: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """The target's latents inside the mask and, bitwise, the source's outside; no mask: the target's. (b 4 h w)."""
    return target if mask is None else torch.where(mask, target, source)
