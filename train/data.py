"""From pictures to the noised rows that training learns from.

A picture is read upright, cropped to a square, and encoded to a Gaussian over latents. Latent diffusion draws from that
Gaussian rather than taking its mean (arXiv:2112.10752, appendix G), and so does DreamBooth as published; the draw is
cheap and the encoder is not, so a picture whose crop never changes is encoded once.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models.images import load_image, to_tensor, upright
from models.inpainting import latent_mask
from models.stable_diffusion import StableDiffusion
from train.encoded import Encoded, tensors_hash
from train.ranges import Resampling

PictureSource: TypeAlias = str | Path | Image.Image
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
MASK_ENDING = ".mask"  # of a file's name before its suffix: cat.mask.png is the mask of cat.jpg
MASK_RESAMPLING: Resampling = "bilinear"  # Lanczos would ring at a mask's edges
PIXELS_AT_ONCE = 2**19  # of pictures in one call of the encoder: one at 768 px, two at 512


def read_pictures(references: PictureSource | Sequence[PictureSource]) -> list[Image.Image]:
    """The pictures of a folder, a file or a sequence of files and pictures; upright and RGB.

    Of a folder every file is read in the order of names, but hidden ones, masks ("cat.mask.png") and sub-folders.
    Raises ValueError when there is no picture, and when one cannot be read, naming it.
    """
    return [upright(one) if isinstance(one, Image.Image) else load_image(one) for one in several(references)]


def several(references: PictureSource | Sequence[PictureSource]) -> list[Path | Image.Image]:
    """The files of a folder but for its masks, or the files and pictures that were given. Raises ValueError."""
    if isinstance(references, str | Path):
        path = Path(references)
        if not path.is_dir():
            return [path]
        files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        found = sorted(file for file in files if not file.stem.endswith(MASK_ENDING))
        if not found:
            raise ValueError(f"{path} is an empty folder; put 3 to 5 pictures of the subject into it")
        return [*found]
    given = [references] if isinstance(references, Image.Image) else list(references)
    if not given:
        raise ValueError("no reference was given; give 3 to 5 pictures of the subject")
    return [one if isinstance(one, Image.Image) else Path(one) for one in given]


def mirrored(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures, then each of them flipped left to right."""
    return [*pictures, *(ImageOps.mirror(picture) for picture in pictures)]


class ShownPicture(NamedTuple):
    """One picture as it is shown once.

    x0: scaled latents (c h w), float32 on the CPU. mask: (1 h w), 1 where the loss counts. text: which of the prompts
    it is shown under, an index. subject: (1 h w) in [0, 1], where the subject is; None is everywhere.
    """

    x0: Tensor
    mask: Tensor
    text: int = 0
    subject: Tensor | None = None


def shown_whole(x0: Tensor, subject: Tensor | None = None) -> ShownPicture:
    """The example of latents all of which count, under the first prompt."""
    return ShownPicture(x0, torch.ones(1, *x0.shape[1:]), subject=subject)


class Examples(Protocol):
    """Pictures as latents, by index."""

    def __len__(self) -> int: ...

    def draw(self, index: int, generator: torch.Generator) -> ShownPicture:
        """One picture; all that is random about it comes from the generator."""
        ...

    def digest(self) -> str:
        """What the pictures were, as a hash, so that training resumes on the same ones."""
        ...


class CentreCrops:
    """The middle square of each picture, encoded once; each time other latents from its Gaussian (or the mean)."""

    def __init__(
        self,
        model: StableDiffusion,
        pictures: Sequence[Image.Image],
        size: int,
        sample: bool = True,
        resampling: Resampling = "lanczos",
        masks: Sequence[Image.Image] | None = None,
        encoded: Encoded | None = None,
    ) -> None:
        """size: side in pixels, a multiple of the autoencoder's factor. sample: False takes the mean of the latents.

        masks: of each picture and of its size, "L", white where its subject is; None is white everywhere. encoded: what
        is so already, and will be kept.
        """
        self.vae, self.sample = model.vae, sample
        images = torch.stack([to_tensor(middle(picture, size, resampling)) for picture in pictures])
        factor, channels = model.vae.config.factor, 2 * model.vae.config.latent_channels
        shape = (len(images), channels, size // factor, size // factor)
        self.moments = (encoded or Encoded()).of("pictures", [images], shape, lambda: _all_moments(model, images))
        self.subjects: Tensor | None = None
        if masks is not None:
            planes = torch.stack([_plane(middle(mask, size, MASK_RESAMPLING)) for mask in masks])
            self.subjects = latent_mask(planes, model.vae.config.factor, "nearest")
        self._digest = tensors_hash([images] if masks is None else [images, planes])

    def __len__(self) -> int:
        return len(self.moments)

    def draw(self, index: int, generator: torch.Generator) -> ShownPicture:
        latents = self.vae.latents(self.moments[index : index + 1], generator if self.sample else None)[0]
        return shown_whole(latents, None if self.subjects is None else self.subjects[index])

    def digest(self) -> str:
        return self._digest


class RandomCrops:
    """Another square of a picture each time, as wide as the picture's shorter side; encoded each time."""

    def __init__(
        self,
        model: StableDiffusion,
        pictures: Sequence[Image.Image],
        size: int,
        sample: bool = True,
        resampling: Resampling = "lanczos",
        masks: Sequence[Image.Image] | None = None,
        encoded: Encoded | None = None,
    ) -> None:
        """As for CentreCrops; nothing of it is encoded already."""
        self.model, self.size, self.sample = model, size, sample
        self.images = [to_tensor(_shorter_side(picture, size, resampling)) for picture in pictures]
        self.planes: list[Tensor] | None = None
        if masks is not None:
            self.planes = [_plane(_shorter_side(mask, size, MASK_RESAMPLING)) for mask in masks]

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, index: int, generator: torch.Generator) -> ShownPicture:
        image = self.images[index]
        room = [side - self.size + 1 for side in image.shape[1:]]
        top, left = (int(torch.randint(places, (), generator=generator)) for places in room)
        window = (..., slice(top, top + self.size), slice(left, left + self.size))
        moments = encode_moments(self.model, image[None][window])
        latents = self.model.vae.latents(moments, generator if self.sample else None)[0]
        if self.planes is None:
            return shown_whole(latents)
        subject = latent_mask(self.planes[index][None][window], self.model.vae.config.factor, "nearest")[0]
        return shown_whole(latents, subject)

    def digest(self) -> str:
        return tensors_hash([*self.images, *(self.planes or [])])


class Templated:
    """Pictures under another of several prompts each time."""

    def __init__(self, examples: Examples, count: int) -> None:
        """count: how many prompts there are."""
        self.examples, self.count = examples, count

    def __len__(self) -> int:
        return len(self.examples)

    def draw(self, index: int, generator: torch.Generator) -> ShownPicture:
        text = int(torch.randint(self.count, (), generator=generator)) if self.count > 1 else 0
        return self.examples.draw(index, generator)._replace(text=text)

    def digest(self) -> str:
        return self.examples.digest()


class Together:
    """The pictures of several subjects, one after another, each subject under prompts of its own."""

    def __init__(self, parts: Sequence[Examples], texts: int = 1) -> None:
        """texts: how many prompts each of them has."""
        self.parts, self.texts = parts, texts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def draw(self, index: int, generator: torch.Generator) -> ShownPicture:
        for place, part in enumerate(self.parts):
            if index < len(part):
                example = part.draw(index, generator)
                return example._replace(text=example.text + place * self.texts)
            index -= len(part)
        raise IndexError(f"there are {len(self)} pictures")

    def digest(self) -> str:
        digests = [part.digest() for part in self.parts]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def middle(picture: Image.Image, size: int, resampling: Resampling) -> Image.Image:
    """The middle square of the picture, resized."""
    return picture if picture.size == (size, size) else ImageOps.fit(picture, (size, size), FILTERS[resampling])


def _plane(mask: Image.Image) -> Tensor:
    """A mask as numbers (1 h w) in [0, 1]."""
    return torch.from_numpy(np.array(mask.convert("L"))).float()[None] / 255


def _shorter_side(picture: Image.Image, size: int, resampling: Resampling) -> Image.Image:
    """The picture resized so that its shorter side is `size`."""
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), FILTERS[resampling])


@torch.no_grad()
def encode_moments(model: StableDiffusion, images: Tensor) -> Tensor:
    """Moments (b 2c h w) of pictures (b 3 h w), kept on the CPU, where all training noise is drawn."""
    return model.moments_of(images).to("cpu", torch.float32)


def _all_moments(model: StableDiffusion, images: Tensor) -> Tensor:
    """Of many, a few at once."""
    chunks = images.split(max(1, PIXELS_AT_ONCE // images[0, 0].numel()))
    return torch.cat([encode_moments(model, chunk) for chunk in chunks])


class Rows(NamedTuple):
    """What one call of the network learns from, all on the CPU.

    x0, eps: (b c h w), float32. t: (b,), long. text: (b,), long, the index of each row's prompt. mask: (b 1 h w), 1
    where the loss counts. subject: (b 1 h w), where the subject is; 1 everywhere where nobody said.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    text: Tensor
    mask: Tensor
    subject: Tensor

    def join(self, other: "Rows") -> "Rows":
        """These rows, then the other ones."""
        return Rows(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def part(self, start: int, stop: int | None = None) -> "Rows":
        """The rows from start up to stop, or to the last."""
        return Rows(*(column[start:stop] for column in self))


class Stream:
    """Endless rows of some pictures: every picture once in random order, then again in another.

    All that is random about a row comes from one generator on the CPU, row after row: how rows are split into batches
    changes none of them, nor does the device, and `state` is all it takes to go on later as if never stopped.
    """

    def __init__(self, examples: Examples, train_steps: int, seed: int) -> None:
        """train_steps: timesteps are uniform in 0..train_steps - 1."""
        self.examples, self.train_steps = examples, train_steps
        self.generator = torch.Generator().manual_seed(seed)
        self.queue: list[int] = []

    def next_rows(self, count: int) -> Rows:
        """The next `count` rows."""
        return Rows(*(torch.stack(column) for column in zip(*(self._row() for _ in range(count)), strict=True)))

    def _row(self) -> tuple[Tensor, ...]:
        if not self.queue:
            self.queue = torch.randperm(len(self.examples), generator=self.generator).tolist()
        x0, mask, text, subject = self.examples.draw(self.queue.pop(0), self.generator)
        eps = torch.randn(x0.shape, generator=self.generator)
        t = torch.randint(self.train_steps, (), generator=self.generator)
        return x0, eps, t, torch.tensor(text), mask, torch.ones_like(mask) if subject is None else subject

    def state(self) -> dict[str, Tensor]:
        """Where the stream stands: the generator's state and what is left of the current round."""
        return {"generator": self.generator.get_state(), "queue": torch.tensor(self.queue, dtype=torch.long)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises ValueError for a state of other pictures, and for none at all."""
        check_stream(state, len(self.examples))
        self.generator.set_state(state["generator"])
        self.queue = state["queue"].tolist()


def check_stream(state: Mapping[str, Tensor], pictures: int) -> None:
    """Raise ValueError unless a stream of so many pictures may have been in this state."""
    queue = state["queue"].tolist()
    if len(set(queue)) != len(queue) or not set(queue) <= set(range(pictures)):
        raise ValueError(f"there are {pictures} pictures and the next are {queue[:5]}")
    try:
        torch.Generator().set_state(state["generator"])
    except (RuntimeError, TypeError):
        raise ValueError("the state of the random numbers is none") from None
