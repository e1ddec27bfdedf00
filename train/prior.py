"""Pictures of the class, drawn by the model itself: what prior preservation holds on to.

DreamBooth (arXiv:2208.12242, section 3.3): while the model learns "a sks cat" from a few pictures, it goes on learning
"a cat" from its own earlier pictures of one, or every cat would become this cat. They are drawn once and kept.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from models.images import load_image, to_image
from models.stable_diffusion import StableDiffusion
from models.threads import in_suited_threads
from samplers import guided_eps, sample
from weights import fingerprint
from weights.atomic import LOCK, atomic, clear
from weights.lock import Held, locked
from weights.published import expand

CLASS_VARIABLE = "PHOTOSWAP_CLASS_PICTURES"
WAIT = 0.5  # seconds between looks at whether another run is done drawing


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


@in_suited_threads
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
    another; an interrupted run goes on where it stopped, and more pictures add to fewer. Runs that want the same ones
    at once wait for the first. None keeps nothing. batch: pictures drawn at once; not a part of what they are.
    """
    home = None if folder is None else folder / class_key(model, prompt, settings)
    if home:
        clear(home)
    files = {i: home / f"{i:04}.png" for i in range(count)} if home else {}
    found = _kept(files)
    if home and len(found) == count:  # also where nothing can be written
        _clear_lock(home)
        return [found[i] for i in range(count)]
    with _alone_in(home, progress):
        found |= _kept({i: file for i, file in files.items() if i not in found})
        missing = [i for i in range(count) if i not in found]
        for i, picture in _drawn(model, prompt, missing, settings, batch, progress):
            found[i] = picture
            if home:
                with atomic(files[i]) as temporary:
                    picture.save(temporary, format="PNG")
    return [found[i] for i in range(count)]


def class_picture_folder(otherwise: Path | None) -> Path | None:
    """Where class pictures are kept for all concepts to share: PHOTOSWAP_CLASS_PICTURES, else below ~/.cache/photoswap.

    otherwise: where to keep them if that cannot be written to, or nobody knows the home folder.
    """
    try:
        folder = expand(os.environ.get(CLASS_VARIABLE) or "~/.cache/photoswap/class-pictures")
        folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError):
        return otherwise
    return folder if os.access(folder, os.W_OK) else otherwise


def _drawn(
    model: StableDiffusion, prompt: str, missing: Sequence[int], settings: SampleSettings, batch: int, progress: bool
) -> Iterator[tuple[int, Image.Image]]:
    """The pictures that are missing, each with its number."""
    with tqdm(total=len(missing), desc=f"drawing {prompt!r}", disable=not (progress and missing)) as bar:
        for start in range(0, len(missing), batch):
            chunk = missing[start : start + batch]
            yield from zip(chunk, sample_pictures(model, prompt, settings, chunk), strict=True)
            bar.update(len(chunk))


@contextmanager
def _alone_in(home: Path | None, progress: bool) -> Iterator[None]:
    """The folder to oneself, once whoever draws there is done or gone."""
    if home is None:
        yield
        return
    home.mkdir(parents=True, exist_ok=True)
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(home / LOCK, without="go on"))
                break
            except Held as holder:
                if progress and not told:
                    tqdm.write(f"waiting for {holder}, which draws the same pictures", file=sys.stderr)
                told = True
                time.sleep(WAIT)
        yield


def _clear_lock(home: Path) -> None:
    """Remove the lock of a process that was killed with its last picture drawn; a living one's stays."""
    with suppress(OSError, Held):
        if (home / LOCK).exists():
            with locked(home / LOCK, without="raise"):
                pass


def class_key(model: StableDiffusion, prompt: str, settings: SampleSettings) -> str:
    """The name of the folder for pictures of this kind: what makes them what they are, hashed."""
    what = json.dumps([fingerprint(model), prompt, asdict(settings)], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _kept(files: Mapping[int, Path]) -> dict[int, Image.Image]:
    """The pictures drawn earlier, but damaged ones, which are then drawn again."""
    found = {}
    for i, file in files.items():
        with suppress(ValueError):
            if file.is_file():
                found[i] = load_image(file)
    return found
