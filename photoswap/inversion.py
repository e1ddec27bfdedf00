"""From a picture, or from a prompt and a seed, to the noise a swap starts from.

`ddim` runs the sampler backwards at guidance 1 (arXiv:2105.05233, appendix F); sampling under guidance then drifts from
the picture. `direct` keeps the whole trajectory and gives it back to the source's row at every step, so that the row
ends at the picture's own latents whatever the guidance: the rule of PnP Inversion (arXiv:2310.01506, Algorithm 1) in
other words. `null-text` fits an empty prompt for every step instead, as Photoswap does. `seed` is a synthetic source:
the trajectory along which the model itself drew the picture, given back as in `direct`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from models.images import to_image, to_tensor, upright
from models.stable_diffusion import StableDiffusion
from samplers import Eps, Step, guided_eps, invert, sample
from weights import fingerprint
from weights.atomic import atomic

from .null_text import fit_null_contexts
from .sizes import check_size, take, working_size

Method = Literal["direct", "ddim", "null-text", "seed"]
FORMAT = "photoswap inversion 1"
SETTINGS = ("prompt", "method", "guidance_scale", "model", "seed")


@dataclass(frozen=True, eq=False)
class Inversion:
    """A source ready to be swapped, as often as one likes.

    trajectory: (steps + 1 4 h w) float32, clean latents first, noise last. null_contexts: (steps 77 c), noisiest first,
    for null-text alone. source: the picture as it came, upright and RGB, None if there was none. guidance_scale: for
    which the null contexts were fitted, or under which the picture was drawn; 1 for the others. model: the fingerprint
    of the model. seed: of a synthetic source. Raises ValueError for parts that do not belong together.
    """

    trajectory: Tensor
    prompt: str
    method: Method
    guidance_scale: float | tuple[float, ...]
    model: str
    source: Image.Image | None = None
    null_contexts: Tensor | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.trajectory.ndim != 4 or len(self.trajectory) < 2:
            raise ValueError(f"the trajectory is {tuple(self.trajectory.shape)}; want (steps + 1, 4, h, w)")
        if self.null_contexts is not None and len(self.null_contexts) != self.steps:
            raise ValueError(f"there are {len(self.null_contexts)} null contexts for {self.steps} steps; want as many")
        if self.method not in get_args(Method):
            raise ValueError(f"method is {self.method!r}; want one of {', '.join(get_args(Method))}")

    @property
    def steps(self) -> int:
        """Of the sampler."""
        return len(self.trajectory) - 1

    @property
    def gives_back(self) -> bool:
        """Whether the source's row follows the stored trajectory rather than its own estimate of the noise."""
        return self.method in ("direct", "seed")

    def source_at(self, index: int) -> Tensor:
        """The stored latents behind sampling step index, (1 4 h w); -1 gives the noise it all starts from."""
        return self.trajectory[self.steps - 1 - index][None]

    def check(
        self,
        model: StableDiffusion,
        steps: int,
        size: tuple[int, int] | None = None,
        guidance_scale: float | tuple[float, ...] | None = None,
    ) -> None:
        """Raise ValueError unless this inversion fits the model, the steps and the size (width, height) worked on.

        guidance_scale: None if it does not matter; null contexts serve only the scale they were fitted for.
        """
        factor = model.config.vae.factor
        own = (self.trajectory.shape[3] * factor, self.trajectory.shape[2] * factor)
        if steps != self.steps:
            raise ValueError(f"the inversion has {self.steps} steps, the swap {steps}: make them the same")
        if size is not None and tuple(size) != own:
            raise ValueError(f"the inversion is of {own[0]} x {own[1]} px, the swap of {size[0]} x {size[1]}")
        if self.null_contexts is not None and guidance_scale not in (None, self.guidance_scale):
            raise ValueError(
                f"null-text was fitted for guidance {self.guidance_scale}, the swap wants {guidance_scale}: invert anew"
            )
        if (found := fingerprint(model)) != self.model:
            raise ValueError(
                f"the inversion was made with another model ({self.model}, this one is {found}): invert "
                "the picture again with the model, and the concept, that will swap"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the settings in its metadata; whole or not at all. Raises OSError."""
        tensors = {"trajectory": self.trajectory, "null_contexts": self.null_contexts, "source": _pixels(self.source)}
        settings = {name: getattr(self, name) for name in SETTINGS}
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        # one text under one key: safetensors writes several in any order, and the same inversion is the same bytes
        with atomic(path) as temporary:
            save_file(held, temporary, {FORMAT: json.dumps(settings)})

    @classmethod
    def load(cls, path: str | Path) -> "Inversion":
        """Read what save wrote. Raises ValueError for a file that is missing, cut short, or something else."""
        if not Path(path).is_file():
            raise ValueError(f"there is no inversion at {path}: make it first")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is no inversion, or only part of one ({error}): make it again") from error
        if FORMAT not in metadata:
            raise ValueError(f"{path} is a safetensors file, but no inversion of ours: make one first")
        try:
            settings = json.loads(metadata[FORMAT])
            scale = settings.pop("guidance_scale")
            return cls(
                trajectory=tensors["trajectory"],
                guidance_scale=tuple(scale) if isinstance(scale, list) else scale,
                source=_picture(tensors.get("source")),
                null_contexts=tensors.get("null_contexts"),
                **settings,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is a damaged inversion ({error}): make it again") from error


@torch.no_grad()
def invert_image(
    model: StableDiffusion,
    image: Image.Image,
    prompt: str,
    method: Method = "direct",
    steps: int = 50,
    guidance_scale: float | tuple[float, ...] = 7.5,
    size: tuple[int, int] | None = None,
    progress: bool = False,
) -> Inversion:
    """Invert a real picture.

    prompt: says what is in it. method: "direct", "ddim" or "null-text". guidance_scale: of the swap to come, one number
    or one for each step; only null-text asks. size: (width, height) to work on, None for one near the model's native
    area. progress: whether to show bars. Raises ValueError for a picture too small, a size the model cannot work on, an
    unknown method, and null-text in half precision.
    """
    methods = get_args(Method)[:-1]
    if method not in methods:
        raise ValueError(f"method is {method!r}; want one of {', '.join(methods)}")
    image = upright(image)
    size = size or working_size(image.size, model.config.native_size, model.config.granularity)
    check_size(size, model.config.granularity)
    if isinstance(guidance_scale, tuple) and len(guidance_scale) != steps:
        raise ValueError(
            f"guidance_scale has {len(guidance_scale)} values for {steps} steps; want one for each, or one"
        )
    moves, context = model.schedule.inversion(steps), model.encode_text(prompt)
    eps = guided_eps(model.unet, model.schedule, None, context, 1.0)
    bar = partial(tqdm, desc="inversion", disable=not progress)
    trajectory = torch.cat(invert(eps, model.encode_image(to_tensor(take(image, size))[None]), moves, progress=bar))
    nulls = None
    if method == "null-text":
        nulls = fit_null_contexts(model, trajectory, context, partial(scale_at, guidance_scale), progress)
    scale = guidance_scale if method == "null-text" else 1.0
    return Inversion(trajectory, prompt, method, scale, fingerprint(model), image, nulls)


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
    context, null = model.encode_text(prompt), model.encode_text("")
    eps = guided_eps(model.unet, model.schedule, null, context, lambda step: scale_at(guidance_scale, step.index))
    trajectory = [initial_noise(model, torch.Generator().manual_seed(seed), size)]

    def keep(latents: Tensor, _: Step) -> Tensor:
        trajectory.append(latents)
        return latents

    bar = partial(tqdm, desc="sampling", disable=not progress)
    sample(eps, trajectory[0], model.schedule.sampling(steps), after=keep, progress=bar)
    drawn = torch.cat(trajectory[::-1])
    return Inversion(drawn, prompt, "seed", guidance_scale, fingerprint(model), seed=seed)


@torch.no_grad()
def reconstruct(
    model: StableDiffusion,
    inversion: Inversion,
    guidance_scale: float | tuple[float, ...] | None = None,
    progress: bool = False,
) -> Image.Image:
    """The picture that the source's row returns to, at the size worked on.

    For direct and for synthetic sources this is the decoder's answer to the stored latents, whatever the guidance. For
    ddim and null-text it is sampled anew; guidance_scale None means the inversion's own. Raises as Inversion.check.
    """
    scale = inversion.guidance_scale if guidance_scale is None else guidance_scale
    inversion.check(model, inversion.steps, guidance_scale=scale)
    latents = inversion.source_at(inversion.steps - 1).to(model.device)
    if not inversion.gives_back:
        eps = source_eps(model, inversion, scale)
        bar = partial(tqdm, desc="reconstruction", disable=not progress)
        noise = inversion.source_at(-1).to(model.device)
        latents = sample(eps, noise, model.schedule.sampling(inversion.steps), progress=bar)
    return to_image(model.decode(latents)[0])


def source_eps(model: StableDiffusion, inversion: Inversion, guidance_scale: float | tuple[float, ...]) -> Eps:
    """The guided noise estimate of the source alone, with the inversion's own null contexts if it has them."""
    nulls, context = null_context(model, inversion), model.encode_text(inversion.prompt)
    scale: Callable[[Step], float] = lambda step: scale_at(guidance_scale, step.index)  # noqa: E731
    return guided_eps(model.unet, model.schedule, lambda step: nulls(step.index), context, scale)


def null_context(model: StableDiffusion, inversion: Inversion) -> Callable[[int], Tensor]:
    """The unconditional context at a step index, (1 77 c): fitted, or that of the empty prompt."""
    if inversion.null_contexts is None:
        empty = model.encode_text("")
        return lambda index: empty
    fitted = inversion.null_contexts.to(model.device, model.dtype)
    return lambda index: fitted[index][None]


def scale_at(guidance_scale: float | tuple[float, ...], index: int) -> float:
    """The guidance at a step index, of one number or of one for each step."""
    return guidance_scale[index] if isinstance(guidance_scale, tuple) else guidance_scale


def initial_noise(model: StableDiffusion, generator: torch.Generator, size: tuple[int, int] | None = None) -> Tensor:
    """Standard normal latents (1 4 h w) for a picture of size (width, height), by default the native square."""
    w, h = size or (model.config.native_size, model.config.native_size)
    check_size((w, h), model.config.granularity)
    factor, channels = model.config.vae.factor, model.config.vae.latent_channels
    noise = torch.randn(1, channels, h // factor, w // factor, generator=generator, device=generator.device)
    return noise.to(model.device)


def _pixels(image: Image.Image | None) -> Tensor | None:
    return None if image is None else torch.from_numpy(np.array(image))


def _picture(pixels: Tensor | None) -> Image.Image | None:
    return None if pixels is None else Image.fromarray(pixels.numpy())
