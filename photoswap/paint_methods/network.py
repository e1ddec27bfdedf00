"""The networks that were trained to paint inside masks, which see beside the latents the mask and what is left.

Paint by Example (arXiv:2211.13227), whose context is one token of the reference, by PLMS; and Stable Diffusion's
inpainting checkpoints (arXiv:2112.10752), whose context is the prompt's, by DDIM with fresh noise at every step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from models.inpainting import painting
from models.paint_by_example import PaintByExample, reference_tensor
from models.stable_diffusion import LatentDiffusion, StableDiffusion
from photoswap.paint_method import Canvas, SampledMethod, Told
from samplers import Eps, Step, guided_eps, last, plms, walk
from samplers.ddim import normal

Sampler = Literal["plms", "ddim"]


@dataclass(frozen=True, kw_only=True)
class PaintSettings(SampledMethod):
    """The numbers of one painting by such a network; the defaults are those of Paint by Example's script.

    guidance_scale: 5 there, 7.5 in Stable Diffusion's inpainting. steps: PLMS makes one call of the network more.
    eta: how much noise DDIM draws afresh, 1 in Stable Diffusion's inpainting; PLMS draws none. Raises ValueError.
    """

    heeds: ClassVar = ("reference", "prompt", "negative_prompt")
    usual_model: ClassVar = "paint-by-example"
    guidance_scale: float = 5.0
    sampler: Sampler = "plms"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler is {self.sampler!r}; want one of {', '.join(get_args(Sampler))}")
        if not 0 <= self.eta <= 1 or (self.eta and self.sampler == "plms"):
            raise ValueError(f"eta is {self.eta} with {self.sampler}; want it in [0, 1], and 0 with plms")

    def check(self, model: LatentDiffusion | None, told: Told) -> None:
        """Raise ValueError for a model that does not paint, or that is told what to paint in another way."""
        if model is None or not model.config.paints:
            name = "no model" if model is None else model.config.name
            raise ValueError(
                f"{name} draws whole pictures; to paint inside a mask want a model with channels for one, such as "
                "paint-by-example or sd2-inpainting, or a method that takes any: blended-text, paste-denoise"
            )
        name = model.config.name
        if told.reference is not None and not isinstance(model, PaintByExample):
            raise ValueError(f"{name} is told by a prompt; give one, or take paint-by-example for a reference")
        if told.prompt is not None and not isinstance(model, StableDiffusion):
            raise ValueError(f"{name} is told by a picture; give a reference, or take sd2-inpainting for a prompt")
        if told.negative_prompt is not None and not isinstance(model, StableDiffusion):
            raise ValueError(f"{name} knows no words; leave the negative prompt out")
        if told.reference is None and told.prompt is None:
            raise ValueError(f"{name} is told nothing; give it a reference or a prompt")

    def sample(self, model: LatentDiffusion, canvas: Canvas, told: Told) -> Tensor:
        """The clean latents, (1 4 h w)."""
        device, factor = model.device, model.config.vae.factor
        beside = model.surroundings(canvas.image.to(device), canvas.hole.to(device), canvas.generator)
        size = (1, 4, canvas.image.shape[-2] // factor, canvas.image.shape[-1] // factor)
        noise = torch.randn(size, generator=canvas.generator).to(device)
        uncond, cond = _contexts(model, told)
        network = painting(model.unet, beside)
        eps = guided_eps(
            network, model.schedule, None if self.guidance_scale == 1 else uncond, cond, self.guidance_scale
        )
        steps = model.schedule.sampling(self.steps)
        return last(canvas.bar(self._walked(eps, noise, steps, canvas.generator), self.steps), noise)

    def _walked(self, eps: Eps, noise: Tensor, steps: list[Step], generator: torch.Generator) -> Iterator[Tensor]:
        if self.sampler == "plms":
            return plms.walk(eps, noise, steps)
        return walk(eps, noise, steps, self.eta, normal(generator) if self.eta else None)


def _contexts(model: Any, told: Told) -> tuple[Tensor, Tensor]:
    """What both halves of guidance are told."""
    if told.reference is not None:
        return model.unconditional(), model.encode_reference(reference_tensor(told.reference, model.config.image.size))
    return model.encode_text(told.negative_prompt or ""), model.encode_text(told.prompt)
