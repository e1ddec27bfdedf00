"""What every way of inverting is asked, and what it answers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from torch import Tensor
from tqdm import tqdm

from models.stable_diffusion import StableDiffusion
from photoswap.pictures import Guidance
from samplers import Eps, Step, guided_eps

from .file import scale_at

_Behind = TypeVar("_Behind")
OnStep: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Request:
    """A picture's latents to be carried to noise in so many steps.

    clean: (1 4 h w). prompt: what is in the picture. guidance_scale: of the swap to come, one number or one for each
    step. progress: whether to show bars. on_step: told of each step what is done, how many are, and of how many; what
    it raises ends the inversion.
    """

    model: StableDiffusion
    clean: Tensor
    prompt: str
    steps: int
    guidance_scale: Guidance
    progress: bool = False
    on_step: OnStep | None = None

    def eps(self, guided: bool) -> Eps:
        """The noise estimate of the prompt, at the request's guidance or at 1; at 1 it takes one row, else two."""
        context, guided = self.model.encode_text(self.prompt), guided and self.guidance_scale != 1
        uncond = self.model.encode_text("") if guided else None
        return guided_eps(self.model.unet, self.model.schedule, uncond, context, self.scale if guided else 1.0)

    def scale(self, step: Step) -> float:
        """The guidance at a step."""
        return scale_at(self.guidance_scale, step.index)

    def shown(self, walked: Iterable[_Behind], name: str = "inversion") -> Iterator[_Behind]:
        """What is walked, a step at a time, seen passing."""
        for done, one in enumerate(tqdm(walked, name, self.steps, disable=not self.progress), 1):
            yield one
            if self.on_step:
                self.on_step(name, done, self.steps)

    def double(self) -> Tensor:
        """The clean latents in float64. Raises ValueError on a device that has none."""
        if self.clean.device.type == "mps":
            raise ValueError("an exact inversion wants float64, which mps does not have: use --device cpu, or direct")
        return self.clean.double()


class Inverted(NamedTuple):
    """A trajectory, (steps + 1 4 h w), clean first; and for null-text the unconditional context of each step."""

    trajectory: Tensor
    null_contexts: Tensor | None = None
