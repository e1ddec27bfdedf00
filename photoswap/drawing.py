"""Pictures of a prompt, and of latents."""

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.images import to_image
from models.stable_diffusion import StableDiffusion
from models.threads import in_suited_threads
from samplers import guided_eps, last, walk

from .inversion import initial_noise


@in_suited_threads
def generate(
    model: StableDiffusion,
    prompt: str,
    seed: int,
    steps: int = 50,
    guidance_scale: float = 7.5,
    size: tuple[int, int] | None = None,
    negative_prompt: str = "",
    progress: bool = False,
) -> Image.Image:
    """Draw a picture of the prompt; the same as a synthetic source of this seed.

    size: (width, height), by default the model's native square. negative_prompt: what guidance leads away from.
    """
    settings = (steps, guidance_scale, size, negative_prompt, progress)
    return decoded(model, generate_latents(model, prompt, seed, *settings))


@in_suited_threads
@torch.no_grad()
def generate_latents(
    model: StableDiffusion,
    prompt: str,
    seed: int,
    steps: int = 50,
    guidance_scale: float = 7.5,
    size: tuple[int, int] | None = None,
    negative_prompt: str = "",
    progress: bool = False,
) -> Tensor:
    """The clean latents of the picture that `generate` draws, (1 4 h w); arguments as there."""
    null, context = model.encode_text(negative_prompt), model.encode_text(prompt)
    eps = guided_eps(model.unet, model.schedule, null, context, guidance_scale)
    noise = initial_noise(model, torch.Generator().manual_seed(seed), size)
    walked = walk(eps, noise, model.schedule.sampling(steps))
    return last(tqdm(walked, "sampling", steps, disable=not progress), noise)


@torch.no_grad()
def decoded(model: StableDiffusion, latents: Tensor) -> Image.Image:
    """The picture of one row of latents, (1 4 h w)."""
    return to_image(model.decode(latents)[0])
