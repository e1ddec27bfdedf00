"""From a picture, or from a prompt and a seed, to the noise a swap starts from.

The ways of inverting a picture are in `photoswap/inversions`, a file each. `seed` is a synthetic source: the trajectory
along which the model itself drew the picture, which the source's row follows as in `direct`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.images import load_image, to_image, to_tensor, upright
from models.stable_diffusion import StableDiffusion
from models.threads import in_suited_threads
from samplers import Eps, Step, guided_eps, last, walk
from weights import fingerprint

from .inversions import INVERSIONS, OnStep, Request
from .inversions.file import GUIDED, Inversion, InversionName, normal_guidance, scale_at
from .sizes import check_size, take, working_size


@in_suited_threads
@torch.no_grad()
def invert_image(
    model: StableDiffusion,
    image: Image.Image | str | Path,
    prompt: str,
    method: InversionName = "direct",
    steps: int = 50,
    guidance_scale: float | tuple[float, ...] = 7.5,
    size: tuple[int, int] | None = None,
    progress: bool = False,
    on_step: OnStep | None = None,
) -> Inversion:
    """Invert a real picture, or the file of one.

    prompt: says what is in it. method: one of INVERSIONS. guidance_scale: of the swap to come, one number or one for
    each step; null-text, edict and belm ask. size: (width, height) to work on, None for one near the model's native
    area. progress: whether to show bars. on_step: told of each step its name, its number, and of how many; what it
    raises ends the inversion. Raises ValueError for a picture too small, a size the model cannot work on, an unknown
    method, and null-text in half precision.
    """
    if method not in INVERSIONS:
        raise ValueError(f"method is {method!r}; want one of {', '.join(INVERSIONS)}")
    image, clean = _encoded(model, image, size)
    guidance_scale = normal_guidance(guidance_scale, steps)
    found = INVERSIONS[method](Request(model, clean, prompt, steps, guidance_scale, progress, on_step))
    scale = guidance_scale if method in GUIDED else 1.0
    return Inversion(found.trajectory, prompt, method, scale, fingerprint(model), image, found.null_contexts)


@in_suited_threads
@torch.no_grad()
def encode(
    model: StableDiffusion,
    image: Image.Image | str | Path,
    prompt: str,
    steps: int = 50,
    size: tuple[int, int] | None = None,
) -> Inversion:
    """A real picture's own latents at every step, for methods that noise them themselves and invert nothing.

    Arguments as in invert_image. Costs the network nothing.
    """
    image, clean = _encoded(model, image, size)
    return Inversion(clean.repeat(steps + 1, 1, 1, 1), prompt, "none", 1.0, fingerprint(model), image)


@in_suited_threads
@torch.no_grad()
def synthesize(
    model: StableDiffusion,
    prompt: str,
    seed: int,
    steps: int = 50,
    guidance_scale: float | tuple[float, ...] = 7.5,
    size: tuple[int, int] | None = None,
    progress: bool = False,
) -> Inversion:
    """A synthetic source: the trajectory of the picture that prompt and seed give.

    Arguments as in invert_image. The noise is drawn on the CPU, so that a seed means the same everywhere.
    """
    guidance_scale = normal_guidance(guidance_scale, steps)
    context, null = model.encode_text(prompt), model.encode_text("")
    eps = guided_eps(model.unet, model.schedule, null, context, lambda step: scale_at(guidance_scale, step.index))
    noise = initial_noise(model, torch.Generator().manual_seed(seed), size)
    walked = tqdm(walk(eps, noise, model.schedule.sampling(steps)), "sampling", steps, disable=not progress)
    drawn = torch.cat([noise, *walked]).flip(0)
    return Inversion(drawn, prompt, "seed", guidance_scale, fingerprint(model), seed=seed)


@in_suited_threads
@torch.no_grad()
def reconstruct(
    model: StableDiffusion,
    inversion: Inversion,
    guidance_scale: float | tuple[float, ...] | None = None,
    progress: bool = False,
    alone: bool = False,
) -> Image.Image:
    """The picture that the source's row returns to, at the size worked on.

    Where the source is given its stored latents this is the decoder's answer to them, whatever the guidance. Elsewhere,
    and for all if alone, it is sampled anew from the noise by DDIM, as a target is that takes nothing; guidance_scale
    None means the inversion's own. Raises as Inversion.check.
    """
    scale = inversion.guidance_scale if guidance_scale is None else guidance_scale
    inversion.check(model, inversion.steps, guidance_scale=scale)
    latents = inversion.source_at(inversion.steps - 1).to(model.device)
    if alone or not inversion.returns_stored:
        eps = source_eps(model, inversion, scale)
        noise, steps = inversion.source_at(-1).to(model.device), model.schedule.sampling(inversion.steps)
        latents = last(tqdm(walk(eps, noise, steps), "reconstruction", len(steps), disable=not progress), noise)
    return to_image(model.decode(latents)[0])


def source_eps(model: StableDiffusion, inversion: Inversion, guidance_scale: float | tuple[float, ...]) -> Eps:
    """The guided noise estimate of the source alone, with the inversion's own null contexts if it has them."""
    uncond, context = uncond_contexts(model, inversion), model.encode_text(inversion.prompt)
    fitted: Callable[[Step], Tensor] = lambda step: uncond[step.index % len(uncond)][None]  # noqa: E731
    scale: Callable[[Step], float] = lambda step: scale_at(guidance_scale, step.index)  # noqa: E731
    return guided_eps(model.unet, model.schedule, fitted, context, scale)


def uncond_contexts(model: StableDiffusion, inversion: Inversion) -> Tensor:
    """The unconditional contexts of a run: one for each step where they were fitted, else one for all."""
    if inversion.null_contexts is None:
        return model.encode_text(inversion.uncond_prompt)
    return inversion.null_contexts.to(model.device, model.dtype)


def initial_noise(model: StableDiffusion, generator: torch.Generator, size: tuple[int, int] | None = None) -> Tensor:
    """Standard normal latents (1 4 h w) for a picture of size (width, height), by default the native square."""
    w, h = size or (model.config.native_size, model.config.native_size)
    check_size((w, h), model.config.granularity)
    factor, channels = model.config.vae.factor, model.config.vae.latent_channels
    noise = torch.randn(1, channels, h // factor, w // factor, generator=generator, device=generator.device)
    return noise.to(model.device)


def _encoded(
    model: StableDiffusion, image: Image.Image | str | Path, size: tuple[int, int] | None
) -> tuple[Image.Image, Tensor]:
    """The picture, upright and RGB, and its latents at a size or one near the model's native area."""
    image = upright(image) if isinstance(image, Image.Image) else load_image(image)
    size = size or working_size(image.size, model.config.native_size, model.config.granularity)
    check_size(size, model.config.granularity)
    return image, model.encode_image(to_tensor(take(image, size))[None])
