"""What methods without a network of their own share: denoising inside a mask, with the picture put back outside."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from models.stable_diffusion import StableDiffusion
from photoswap.blend import keep_source
from photoswap.paint_method import Canvas, Told
from samplers import Eps, Step, guided_eps
from samplers.ddim import move


def repainted(
    eps: Eps, latents: Tensor, steps: Sequence[Step], canvas: Canvas, clean: Tensor, cells: Tensor, behind: bool = False
) -> Tensor:
    """Latents denoised over these steps; after each, the picture's own, noised anew, take their place outside.

    Blended Latent Diffusion (arXiv:2206.02779), Algorithm 1; SDEdit's with a mask (arXiv:2108.01073, Algorithm 3) is
    the same from other latents. latents, clean: (1 4 h w), where it begins and the picture's own. cells: (1 1 h w)
    bool, what is repainted. behind: whether the picture's have the noise from before the step, as in the released code
    of Blended Latent Diffusion, and not that from after it.
    """
    for step in canvas.bar(steps):
        latents = move(latents, eps(latents, step), step.alpha_from, step.alpha_to)
        background = noised(canvas, clean, step.alpha_from if behind else step.alpha_to)
        latents = keep_source(background, latents, cells)
    return latents


def noised(canvas: Canvas, clean: Tensor, alpha: float) -> Tensor:
    """Clean latents carried to the noise level alpha (alpha_bar), with noise drawn anew."""
    return alpha**0.5 * clean + (1 - alpha) ** 0.5 * canvas.noise(clean)


def touched(hole: Tensor, factor: int) -> Tensor:
    """The latents to repaint, (1 1 h/factor w/factor) bool: all whose cell any pixel of the mask falls into.

    The released codes take one pixel of each cell, where a thin mask vanishes.
    """
    return F.max_pool2d(hole, factor) > 0


def guided_by_words(model: StableDiffusion, told: Told, scale: float) -> Eps:
    """The noise estimate under guidance by a prompt; told none, the plain one of the empty prompt."""
    cond = model.encode_text(told.prompt or "")
    if told.prompt is None or scale == 1:
        return guided_eps(model.unet, model.schedule, None, cond, 1.0)
    return guided_eps(model.unet, model.schedule, model.encode_text(told.negative_prompt or ""), cond, scale)
