"""Paste a reference's subject, then denoise: the training-free part of PhD (Zhang et al., 2023, arXiv:2306.07596).

PhD, "Paste, Inpaint and Harmonize via Denoising", pastes the cut-out subject into the scene and has a frozen latent
diffusion model render the place anew, held to the pasted pixels by a trained network. Without that network the noise
alone decides how much of them is kept: SDEdit with a mask (Meng et al., ICLR 2022, arXiv:2108.01073, Algorithm 3), from
the pasted picture, with the scene put back outside the mask after every step.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from models.images import to_image, to_tensor
from photoswap.method import share_of
from photoswap.paint_method import Canvas, SampledMethod, Told
from photoswap.paint_methods.repaint import guided_by_words, noised, repainted, touched
from photoswap.pasting import filled, paste_into


@dataclass(frozen=True, kw_only=True)
class PasteAndDenoise(SampledMethod):
    """t0: the share of the steps that are taken, the last ones; the less, the more of what was pasted is kept."""

    wants: ClassVar = ("reference",)
    heeds: ClassVar = ("reference_mask", "prompt", "negative_prompt")
    usual_model: ClassVar = "sd21-base"
    t0: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.t0 <= 1:
            raise ValueError(f"t0 is {self.t0}; want a share of the steps, above 0 and up to 1")

    def sample(self, model: Any, canvas: Canvas, told: Told) -> Tensor:
        """The clean latents, (1 4 h w)."""
        assert told.reference is not None  # check has seen to it
        ground = filled(to_image(canvas.image[0]), canvas.hole)
        pasted, _ = paste_into(ground, canvas.hole, told.reference, told.reference_mask)
        clean, begun = (model.encode_image(picture) for picture in (canvas.image, to_tensor(pasted)[None]))
        steps = model.schedule.sampling(self.steps)[-share_of(self.steps, self.t0) :]
        cells = touched(canvas.hole, model.config.vae.factor).to(clean.device)
        eps = guided_by_words(model, told, self.guidance_scale)
        return repainted(eps, noised(canvas, begun, steps[0].alpha_from), steps, canvas, clean, cells)
