"""Keep a word's attention on its subject: the attention loss of Break-A-Scene (arXiv:2305.16311, section 3).

A masked loss says what the subject looks like, and nothing says where the word may look. So the token's column of A,
averaged over heads and layers and measured against its maximum, is drawn towards the subject's mask. Which layers is
the released code's: those 16 places a side at 512 px, going down and up. It adds 0.01 of this to the masked error.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from models.hooks import Hook, Site, reading
from models.unet import UNet

PUBLISHED_ATTENTION_LOSS = 0.01


def outline_sites(unet: UNet, h: int, w: int) -> list[Site]:
    """The cross-attention layers that are read for latents of h x w: five of SD 2.1's 16."""
    scale = unet.outline_scale(h, w)
    return [site for site in unet.sites if site.kind == "cross" and site.stage != "mid" and site.scale == scale]


def map_readers(sites: Sequence[Site], maps: list[Tensor], rows: int) -> dict[Site, Hook]:
    """Hooks that put the first `rows` rows of each site's A (rows h n 77) into `maps`, with their gradient."""
    return {site: Hook(map=reading(lambda A: maps.append(A[:rows]))) for site in sites}


def attention_error(maps: Sequence[Tensor], columns: Sequence[Sequence[int]], masks: Tensor) -> Tensor:
    """How far a word's maps are from the masks: (b,), the mean squared difference of each row.

    maps: A of each layer, (b heads n m), all with the same n places. columns: of each row's word; of several tokens
    the mean. masks: (b 1 h w) in [0, 1] at the size of the latents, taken to the places' by the nearest.
    Raises ValueError without maps or columns, and where the masks' sides are no multiple of the places'.
    """
    if not maps or len(columns) != len(masks) or not all(columns):
        raise ValueError(
            f"{len(maps)} maps, {len(columns)} words of {len(masks)} rows; want maps, and a word for each row"
        )
    places = maps[0].shape[2]
    scale = round((masks[0].numel() / places) ** 0.5)
    h, w = (side // scale for side in masks.shape[2:])
    if h * w != places or (h * scale, w * scale) != masks.shape[2:]:
        raise ValueError(
            f"masks are {tuple(masks.shape)} and maps have {places} places; want masks of the latents' size"
        )
    A = torch.cat(list(maps), dim=1).mean(dim=1)  # (b n m)
    word = torch.stack([row[:, list(own)].mean(dim=1) for row, own in zip(A, columns, strict=True)])  # (b n)
    word = word / word.amax(dim=1, keepdim=True)
    wanted = rearrange(F.interpolate(masks.to(word), (h, w), mode="nearest"), "b 1 h w -> b (h w)")
    return (word - wanted).square().mean(dim=1)
