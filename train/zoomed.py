"""Pictures at another size each time, as Custom Diffusion shows them (arXiv:2212.04488, section 4, training details).

Two times in three the square picture is shrunk, to a third of its side at the least, and laid somewhere on plain grey,
where the loss counts only inside of it; else it is enlarged by 1.2 to 1.4 and cut. The prompt says which. The numbers
are those of the authors' code.
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from models.images import to_tensor
from models.stable_diffusion import StableDiffusion
from train.data import FILTERS, ShownPicture, encode_moments, middle
from train.encoded import tensors_hash
from train.ranges import Resampling
from train.templates import ZOOMS

SHRUNK = 2 / 3  # how often a picture is shrunk, in the authors' code; 0.66 in the script that follows it
SMALLEST_SHARE = 3  # a third of the side
LARGE = (1.2, 1.4)
FAR_AWAY = 0.6  # below this much of the side, the prompt says so


class Zoomed:
    """Pictures shrunk or enlarged; encoded each time."""

    def __init__(
        self,
        model: StableDiffusion,
        pictures: Sequence[Image.Image],
        size: int,
        sample: bool = True,
        resampling: Resampling = "lanczos",
    ) -> None:
        """As for CentreCrops."""
        self.model, self.size, self.sample, self.filter = model, size, sample, FILTERS[resampling]
        self.pictures = [middle(picture, min(picture.size), resampling) for picture in pictures]

    def __len__(self) -> int:
        return len(self.pictures)

    def draw(self, index: int, generator: torch.Generator) -> ShownPicture:
        side = self._side(generator)
        top, left = (int(torch.randint(abs(self.size - side) + 1, (), generator=generator)) for _ in range(2))
        image, mask = self._laid(self.pictures[index].resize((side, side), self.filter), top, left)
        moments = encode_moments(self.model, image[None])
        latents = self.model.vae.latents(moments, generator if self.sample else None)[0]
        return ShownPicture(latents, mask, self._text(side, generator))

    def digest(self) -> str:
        return tensors_hash([to_tensor(picture) for picture in self.pictures])

    def _side(self, generator: torch.Generator) -> int:
        if torch.rand((), generator=generator) < SHRUNK:
            return int(torch.randint(self.size // SMALLEST_SHARE, self.size + 1, (), generator=generator))
        low, high = (int(factor * self.size) for factor in LARGE)
        return int(torch.randint(low, high, (), generator=generator))

    def _laid(self, picture: Image.Image, top: int, left: int) -> tuple[Tensor, Tensor]:
        """The picture cut out of, or laid on grey, there: (3 size size); and where in latents the loss counts."""
        image, side, cell = to_tensor(picture), picture.width, self.model.config.vae.factor
        cells = self.size // cell
        if side > self.size:
            return image[:, top : top + self.size, left : left + self.size], torch.ones(1, cells, cells)
        canvas, mask = torch.zeros(3, self.size, self.size), torch.zeros(1, cells, cells)
        canvas[:, top : top + side, left : left + side] = image
        rows, columns = (_inner(start, start + side, cell) for start in (top, left))
        mask[:, rows, columns] = 1
        return canvas, mask

    def _text(self, side: int, generator: torch.Generator) -> int:
        """Which of `ZOOMS` the prompt begins with."""
        second = int(torch.randint(2, (), generator=generator))
        words = ZOOMS[1:3] if side < FAR_AWAY * self.size else ZOOMS[3:] if side > self.size else ZOOMS[:1] * 2
        return ZOOMS.index(words[second])


def _inner(start: int, end: int, cell: int) -> slice:
    """The cells well inside of a picture, one less at either end, but never none."""
    first, last = start // cell + 1, end // cell - 1
    return slice(first, last) if first < last else slice(start // cell, max(end // cell, start // cell + 1))
