"""Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023, arXiv:2206.02779), told by words or by a picture.

By words it is that paper's Algorithm 1, with the rules of omriav/blended-latent-diffusion: the first quarter of the
steps is skipped though the latents start from pure noise, and the background has the noise from before each step.

By a picture it is what Paint by Example compares with as "Blended Diffusion (image)": the gradient of Blended
Diffusion (Avrahami et al., CVPR 2022, arXiv:2111.14818, section 4.1) steers the noise estimate,

    eps + scale * sqrt(1 - alpha_bar) * d/dz  mean over augmentations of (1 - cos(E(x0 inside the mask), E(reference)))

with E a network that embeds pictures, CLIP's there. There it ran over pixels of an unconditional model, at scale 1000;
here x0 is the estimated clean latents, decoded, the model is told nothing or the prompt, and the scale is the 100 that
guidance of latents by CLIP is usually run at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.images import to_tensor
from models.stable_diffusion import LatentDiffusion
from photoswap.paint_method import Canvas, SampledMethod, Told
from photoswap.paint_methods.repaint import guided_by_words, repainted, touched
from samplers import Eps, Step

Embed: TypeAlias = Callable[[Tensor], Tensor]  # pictures (b 3 h w) in [-1, 1] to (b d), with gradients


@dataclass(frozen=True, kw_only=True)
class BlendedByText(SampledMethod):
    """blending_start_percentage: the share of the steps that are skipped, the first ones."""

    wants: ClassVar[tuple[str, ...]] = ("prompt",)
    heeds: ClassVar[tuple[str, ...]] = ("negative_prompt",)
    usual_model: ClassVar = "sd21-base"
    blending_start_percentage: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.blending_start_percentage < 1:
            raise ValueError(
                f"blending_start_percentage is {self.blending_start_percentage}; want a share of the steps, in [0, 1)"
            )

    def sample(self, model: Any, canvas: Canvas, told: Told) -> Tensor:
        """The clean latents, (1 4 h w)."""
        clean = model.encode_image(canvas.image)
        cells = touched(canvas.hole, model.config.vae.factor).to(clean.device)
        steps = model.schedule.sampling(self.steps)[int(self.steps * self.blending_start_percentage) :]
        eps = self.estimate(model, canvas, told)
        return repainted(eps, canvas.noise(clean), steps, canvas, clean, cells, behind=True)

    def estimate(self, model: Any, canvas: Canvas, told: Told) -> Eps:
        """The noise estimate that the latents follow."""
        return guided_by_words(model, told, self.guidance_scale)


@dataclass(frozen=True, kw_only=True)
class BlendedByImage(BlendedByText):
    """image_scale: how strongly the reference steers. augmentations: views of the estimate that are embedded a step.

    embed: what embeds pictures.
    """

    wants: ClassVar = ("reference",)
    heeds: ClassVar = ("prompt", "negative_prompt")
    image_scale: float = 100.0
    augmentations: int = 8
    embed: Embed | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augmentations < 1:
            raise ValueError(f"augmentations is {self.augmentations}; want at least 1")

    def check(self, model: LatentDiffusion | None, told: Told) -> None:
        """Raise ValueError where nothing embeds pictures, and as all methods do."""
        super().check(model, told)
        if self.embed is None:
            raise ValueError("BlendedByImage steers by embeddings of pictures; give it what embeds them, such as CLIP")

    def estimate(self, model: Any, canvas: Canvas, told: Told) -> Eps:
        """The noise estimate, moved towards the reference."""
        assert self.embed is not None and told.reference is not None  # check has seen to it
        eps, wide = guided_by_words(model, told, self.guidance_scale), torch.promote_types(model.dtype, torch.float32)
        wanted = self.embed(to_tensor(told.reference)[None].to(model.device, wide)).detach()
        hole = canvas.hole.to(model.device)

        def steered(latents: Tensor, step: Step) -> Tensor:
            alpha = step.alpha_from
            if alpha == 0:  # pure noise, from which no picture can be told
                return eps(latents, step)
            with torch.enable_grad():
                z = latents.detach().requires_grad_()
                estimate = eps(z, step)
                x0 = (z - (1 - alpha) ** 0.5 * estimate) / alpha**0.5
                seen = model.vae.decode((x0 / model.config.vae.scale_factor).to(model.dtype)).to(x0.dtype)
                distance = self._distance(seen * hole, wanted, canvas)
                (slope,) = torch.autograd.grad(distance, z)
            return estimate.detach() + self.image_scale * (1 - alpha) ** 0.5 * slope

        return steered

    def _distance(self, seen: Tensor, wanted: Tensor, canvas: Canvas) -> Tensor:
        """1 - cosine of the embeddings of what is inside the mask and of the reference, over the views; a scalar."""
        assert self.embed is not None
        found = self.embed(views(seen, self.augmentations, canvas.generator))
        return 1 - F.cosine_similarity(found, wanted.to(found.dtype)).mean()


def views(picture: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A picture (1 3 h w) seen so many times: as it is, then turned, sheared, scaled and moved at random.

    By up to 15 degrees, 0.1, a tenth and a tenth of its side each way.
    """
    drawn = torch.rand((count, 5), generator=generator) * 2 - 1
    drawn[0] = 0
    angle, shear, scale = math.radians(15) * drawn[:, 0], 0.1 * drawn[:, 1], 1 + 0.1 * drawn[:, 2]
    top = torch.stack([scale * angle.cos(), shear - angle.sin(), 0.1 * drawn[:, 3]], 1)
    low = torch.stack([angle.sin(), scale * angle.cos(), 0.1 * drawn[:, 4]], 1)
    matrix = torch.stack([top, low], 1).to(picture)
    grid = F.affine_grid(matrix, [count, *picture.shape[1:]], align_corners=False)
    return F.grid_sample(picture.expand(count, -1, -1, -1), grid, padding_mode="zeros", align_corners=False)
