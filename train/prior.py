"""Pictures of the class, drawn by the model itself: what prior preservation holds on to.

DreamBooth (arXiv:2208.12242, section 3.3): while the model learns "a sks cat" from a few pictures, it goes on learning
"a cat" from its own earlier pictures of one, or every cat would become this cat. They are drawn once and kept.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from models.images import load_image, to_image
from models.stable_diffusion import StableDiffusion
from samplers import guided_eps, sample
from weights import fingerprint
from weights.atomic import atomic, clear


@dataclass(frozen=True)
class SampleSettings:
    """How pictures are sampled: side in pixels, sampler steps, guidance scale, the seed of the first picture.

    bfloat16: U-Net and text encoder run under autocast, in half the time and memory. The autoencoder does not: it runs
    once a picture, and eight bits would show in it.
    """

    size: int
    steps: int = 50
    guidance_scale: float = 7.5
    seed: int = 0
    bfloat16: bool = False


@torch.no_grad()
def sample_pictures(
    model: StableDiffusion, prompt: str, settings: SampleSettings, indices: Sequence[int] = (0,)
) -> list[Image.Image]:
    """One picture of the prompt for each index, all in one batch; picture i starts from the noise of seed + i.

    Raises ValueError when the size is no multiple of the model's granularity.
    """
    if settings.size < 1 or settings.size % model.config.granularity:
        raise ValueError(
            f"size is {settings.size}; {model.config.name} draws squares whose side is a multiple of "
            f"{model.config.granularity}"
        )
    side = settings.size // model.config.vae.factor
    shape = (model.config.vae.latent_channels, side, side)
    seeds = [torch.Generator().manual_seed(settings.seed + i) for i in indices]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in seeds]).to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bfloat16):
        context = model.encode_text([prompt, ""])
        uncond = None if settings.guidance_scale == 1 else context[1:]
        eps = guided_eps(model.unet, model.schedule, uncond, context[:1], settings.guidance_scale)
        latents = sample(eps, noise, model.schedule.sampling(settings.steps))
    return [to_image(image) for row in latents.split(1) for image in model.decode(row)]


def class_pictures(
    model: StableDiffusion,
    prompt: str,
    count: int,
    settings: SampleSettings,
    folder: Path | None = None,
    *,
    batch: int = 4,
    progress: bool = True,
) -> list[Image.Image]:
    """`count` pictures of the prompt, taken from `folder` where they are there already, else drawn and put there.

    Below `folder` each model, prompt and way of drawing has a folder of its own, so a picture is never taken for
    another; an interrupted run goes on where it stopped, and more pictures add to fewer. None keeps nothing.
    batch: pictures drawn at once; not a part of what they are.
    """
    home = None if folder is None else folder / _key(model, prompt, settings)
    if home:
        clear(home)
    files = {i: home / f"{i:04}.png" for i in range(count)} if home else {}
    found = {i: picture for i, file in files.items() if (picture := _kept(file)) is not None}
    missing = [i for i in range(count) if i not in found]
    with tqdm(total=len(missing), desc=f"drawing {prompt!r}", disable=not (progress and missing)) as bar:
        for start in range(0, len(missing), batch):
            chunk = missing[start : start + batch]
            for i, picture in zip(chunk, sample_pictures(model, prompt, settings, chunk), strict=True):
                found[i] = picture
                if home:
                    with atomic(files[i]) as temporary:
                        picture.save(temporary, format="PNG")
            bar.update(len(chunk))
    return [found[i] for i in range(count)]


def _key(model: StableDiffusion, prompt: str, settings: SampleSettings) -> str:
    """The name of the folder for pictures of this kind: what makes them what they are, hashed."""
    what = json.dumps([fingerprint(model), prompt, asdict(settings)], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _kept(file: Path) -> Image.Image | None:
    """A picture drawn earlier; None where there is none, or a damaged one, which is then drawn again."""
    try:
        return load_image(file) if file.is_file() else None
    except ValueError:
        return None
