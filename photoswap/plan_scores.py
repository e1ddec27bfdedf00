"""How good a swap is, told without the truth and by no other network than the model's own.

Two scores of a swap, whose latents are x and whose picture is R. S is the source as the autoencoder returns it, and m
is where its subject stands: the user's mask, or what `photoswap.masks` finds by the word.

    background   10 log10(2^2 / mean over pixels away from m of (R - S)^2), dB
    identity     mean over timesteps t, noises n and places in m of
                 |eps(z, t, rival) - n|^2 - |eps(z, t, target) - n|^2,  z = x noised by n to t

The second asks the network that learnt the subject how much better the target's prompt, "a photo of a sks cat",
explains the result than its rival does, "a photo of a cat": a difference of denoising losses, as classes are told apart
by Diffusion Classifier (Li et al., ICCV 2023, arXiv:2303.16203), with the same noises for everything compared. Neither
score means anything alone: the source has the best background, any picture of the subject the best identity. So, as in
OIR (Yang et al., ICLR 2024, arXiv:2310.12149), each is stretched to 0..1 over what is compared, and the largest sum
wins. Nothing here was fitted: the timesteps are those at which masks are found, and both scores weigh the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from models.stable_diffusion import StableDiffusion

from .masks import TIMESTEPS
from .sizes import take, touched_cells

CRITIC_NOISES = 2  # drawn at each timestep
# How far from the found subject the background begins, as a share of the shorter side: masks that are found miss a rim
# of the subject, and a background with some of it rewards swaps that leave the old one there. The first that leaves
# something to judge by; the largest was chosen on the benchmark's development stream.
AWAY = (1 / 8, 1 / 16, 0.0)
LEAST_GROUND = 0.05  # of the picture
MOST_BACKGROUND = 60.0  # dB, less error than rounding to eight bits makes


@dataclass(frozen=True, eq=False)
class Critic:
    """What swaps of one source are judged by.

    source: its picture at the size worked on. ground: pixels of the background, (h w) bool; None where there are none,
    or swaps keep them whatever is chosen, and then there is no such score. places: of the subject in the latents,
    (h w) bool. prompts: the target's, then its rival's.
    """

    model: StableDiffusion
    source: Image.Image
    ground: NDArray[np.bool_] | None
    places: Tensor
    prompts: tuple[str, str]

    @classmethod
    def of(
        cls,
        model: StableDiffusion,
        source: Image.Image,
        mask: Image.Image,
        prompts: tuple[str, str],
        keeps_background: bool = False,
    ) -> "Critic":
        """The critic for a mask of the uncut picture's size, white where the subject is.

        keeps_background: whether every swap leaves it as it is. Raises ValueError for a mask without a subject.
        """
        places = touched_cells(mask, source.size, model.config.vae.factor)[0, 0].to(model.device)
        ground = None if keeps_background else background_of(take(mask, source.size))
        return cls(model, source, ground, places, prompts)

    @property
    def rows(self) -> int:
        """Rows of the network that judging one swap takes."""
        return len(TIMESTEPS) * CRITIC_NOISES * len(self.prompts)

    def scores(self, latents: Tensor, picture: Image.Image) -> dict[str, float]:
        """The scores of one swap: of its latents, (1 4 h w), and its picture at the size worked on."""
        kept = {} if self.ground is None else {"background": background_kept(picture, self.source, self.ground)}
        return {**kept, "identity": self.identity(latents)}

    @torch.no_grad()
    def identity(self, latents: Tensor) -> float:
        """How much less the target's prompt errs than its rival's where the subject is, over all noises."""
        generator, schedule = torch.Generator().manual_seed(0), self.model.schedule
        context = self.model.encode_text(list(self.prompts)).repeat_interleave(CRITIC_NOISES, dim=0)
        found = []
        for t in TIMESTEPS:
            noise = torch.randn(CRITIC_NOISES, *latents.shape[1:], generator=generator).to(latents).repeat(2, 1, 1, 1)
            noised = schedule.add_noise(latents.expand_as(noise), noise, t)
            output = self.model.unet(noised.to(self.model.dtype), t, context)
            wrong = schedule.to_eps(output.to(noised.dtype), noised, t) - noise
            errors = wrong.square().mean(dim=1)[:, self.places].mean(dim=1)  # (prompts noises)
            found.append(errors[CRITIC_NOISES:].mean() - errors[:CRITIC_NOISES].mean())
        return float(torch.stack(found).mean())


def background_of(mask: Image.Image) -> NDArray[np.bool_] | None:
    """Where neither the mask is white nor anything near, (h w); None where that is next to nothing."""
    for share in AWAY:
        margin = round(share * min(mask.size))
        ground = np.asarray(mask.convert("L").filter(ImageFilter.MaxFilter(2 * margin + 1))) < 128
        if ground.mean() >= LEAST_GROUND:
            return ground
    return None


def background_kept(picture: Image.Image, source: Image.Image, ground: NDArray[np.bool_]) -> float:
    """PSNR in dB of two pictures of one size over a region (h w), at most MOST_BACKGROUND."""
    a, b = (np.asarray(image.convert("RGB"), dtype=np.float64)[ground] / 127.5 for image in (picture, source))
    error = float(np.square(a - b).mean())
    return MOST_BACKGROUND if error == 0 else min(10 * float(np.log10(2**2 / error)), MOST_BACKGROUND)


def stretched_scores(values: Sequence[float]) -> list[float]:
    """The values brought to 0..1, the least to 0 and the largest to 1; all 0 where they are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def summed_scores(scores: Sequence[Mapping[str, float]]) -> list[float]:
    """For each of those compared the sum of its scores, each of these stretched over all of them."""
    columns = [stretched_scores([one[name] for one in scores]) for name in scores[0]]
    return [sum(row) for row in zip(*columns, strict=True)]
