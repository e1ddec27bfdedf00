"""What a U-Net with nine input channels is told of the picture it paints in.

Beside the latents it sees a mask at their size and the latents of the picture with the masked part left out, which is
grey. Everywhere here a mask is 1 where the picture is to be repainted; what a network was trained with is its model's
to say (`LatentDiffusion.beside`): Stable Diffusion's inpainting has [mask, rest], Paint by Example [rest, 1 - mask].
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from models.hooks import NO_HOOKS, Hooks
from models.transformer import Context
from models.unet import UNet

Resize = Literal["nearest", "bilinear", "antialiased"]
HALF = 128  # of 255: the darkest grey that is repainted


def to_mask(image: Image.Image) -> Tensor:
    """A grey picture ("L", see `as_mask`) as a mask (1 1 h w), 1 where it is 128 or lighter, else 0; float32."""
    return (torch.from_numpy(np.array(image.convert("L"))) >= HALF).float()[None, None]


def white_box(mask: Image.Image) -> tuple[int, int, int, int] | None:
    """The box (left, top, right, bottom) around what a grey picture ("L") masks; None where that is nothing."""
    return mask.convert("L").point([0] * HALF + [255] * (256 - HALF)).getbbox()


def left_of(image: Tensor, mask: Tensor) -> Tensor:
    """The picture (b 3 h w) in [-1, 1] without what the mask (b 1 h w) covers, which becomes 0, grey."""
    return image * (1 - mask)


def latent_mask(mask: Tensor, factor: int, resize: Resize) -> Tensor:
    """The mask (b 1 h w) at the size of latents, (b 1 h/factor w/factor).

    resize: nearest, as Stable Diffusion's inpainting and the common pipelines do; bilinear between the four pixels
    nearest to each centre, as Paint by Example did; antialiased, what newer libraries make of the same call, over all
    pixels. Raises ValueError when a side is no multiple of factor.
    """
    h, w = mask.shape[-2:]
    if mask.dim() != 4 or h % factor or w % factor:
        raise ValueError(f"the mask is {tuple(mask.shape)}; want (b, 1, h, w) with h and w multiples of {factor}")
    size = (h // factor, w // factor)
    if resize == "nearest":
        return F.interpolate(mask, size, mode="nearest")
    return F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=resize == "antialiased")


def painting(unet: UNet, beside: Tensor) -> Callable[..., Tensor]:
    """The U-Net as samplers call it, (latents, t, context) to its output, given what is beside the latents each time.

    beside: (b 5 h w) or (1 5 h w) for all; where a call has several times as many rows, as under guidance, they are
    taken to be the same b again.
    """

    def call(latents: Tensor, t: int | Tensor, context: Context, hooks: Hooks = NO_HOOKS) -> Tensor:
        rows = beside.to(latents).repeat(len(latents) // len(beside), 1, 1, 1)
        return unet(torch.cat([latents, rows], dim=1), t, context, hooks)

    return call
