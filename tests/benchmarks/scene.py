"""What is measured: a swap as the loop gets it, plain sampling of as many pictures, and what a swap leaves out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import torch
from torch import Tensor

from models.hooks import Hook, Hooks, Site, reading
from models.stable_diffusion import StableDiffusion
from models.unet import UNet
from photoswap import side_by_side as loop
from photoswap.injections import BOTH, SOURCE, TARGET, Row
from photoswap.inversion import Inversion
from photoswap.method import Follower, Method
from photoswap.methods import Photoswap
from photoswap.pictures import Picture
from photoswap.staging import make_pictures
from samplers import guided_eps, sample

SOURCE_PROMPT, TARGET_PROMPT = "a photo of a cat on a wooden floor", "a photo of a sks cat on a wooden floor"


@dataclass(frozen=True, eq=False)
class Scene:
    """A model and two pictures of noise; the source's latents are known, as an inversion leaves them."""

    model: StableDiffusion
    pictures: Mapping[str, Picture]
    method: Method

    @classmethod
    def of(cls, model: StableDiffusion, method: Method, side: int, targets: int = 1) -> "Scene":
        """side: of the latents. The trajectory is drawn: what it holds changes nothing of what it costs."""
        drawn = torch.randn(method.steps + 1, 4, side, side, generator=torch.Generator().manual_seed(0))
        inversion = Inversion(drawn.to(model.device), SOURCE_PROMPT, "direct", 1.0, "drawn")
        with torch.no_grad():
            pictures = make_pictures(model, inversion, method, (SOURCE_PROMPT, TARGET_PROMPT))
        first = pictures.pop(TARGET)
        names = [TARGET] if targets == 1 else [f"{TARGET} {i}" for i in range(1, targets + 1)]
        return cls(model, {**pictures, **dict.fromkeys(names, first)}, method)

    def swap(self, followers: Sequence[Follower] = ()) -> Tensor:
        """The first target's latents."""
        targets = [name for name in self.pictures if name != SOURCE]
        methods = dict.fromkeys(targets, self.method)
        moments = loop.side_by_side(self.model.unet, self.model.schedule, self.pictures, methods, followers=followers)
        for moment in moments:
            last = moment
        return last.latents[targets[0]]

    def sweep(self, count: int, shared: bool) -> None:
        """So many values of phi, spread from 0 to the method's own. shared: what they have in common is done once."""
        assert isinstance(self.method, Photoswap)
        values = [self.method.phi * i // (count - 1) for i in range(count)]
        methods = {f"{TARGET} {i}": replace(self.method, phi=phi) for i, phi in enumerate(values)}
        pictures = {SOURCE: self.pictures[SOURCE], **dict.fromkeys(methods, self.pictures[TARGET])}
        for names in [list(methods)] if shared else [[name] for name in methods]:
            run = {name: methods[name] for name in names}
            told = {SOURCE: pictures[SOURCE], **{name: pictures[name] for name in names}}
            for _ in loop.side_by_side(self.model.unet, self.model.schedule, told, run, alike=[names]):
                pass

    @torch.no_grad()
    def plain(self, network: Callable[..., Tensor] | None = None, steps: int | None = None) -> Tensor:
        """Guided sampling of as many pictures as there are here, in one batch of two rows each."""
        each = list(self.pictures.values())
        uncond, cond = (torch.cat([p.context_at(half, 0) for p in each]) for half in BOTH)
        noise = torch.cat([p.noise for p in each])
        eps = guided_eps(network or self.model.unet, self.model.schedule, uncond, cond, self.method.guidance_scale)
        return sample(eps, noise, self.model.schedule.sampling(steps or self.method.steps))

    def with_lambdas(self, steps: int, phi: int, M: int, A: int) -> "Scene":
        method = Photoswap(steps=steps, phi=phi, M=M, A=A, guidance_scale=self.method.guidance_scale)
        return Scene.of(self.model, method, self.pictures[SOURCE].size[0])


class AllRows(Follower):
    """Reads every row of every step, so that none is dropped."""

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self.wanted = [Row(half, name) for half in BOTH for name in pictures]

    def rows(self) -> Sequence[Row]:
        return self.wanted


class AllMaps(Follower):
    """Reads the map of every layer, so that all are built."""

    def hooks(self, rows: Sequence[Row], sites: Sequence[Site]) -> Hooks:
        return {site: Hook(map=reading(lambda maps: None)) for site in sites}


def without_savings(scene: Scene) -> dict[str, Callable[[], Tensor]]:
    """The same swap with one of its savings taken away at a time."""
    every_row, every_map = AllRows(scene.pictures), AllMaps()

    def contexts_each_call() -> Tensor:
        with mock.patch.object(UNet, "prepare_context", lambda self, context, most: context):
            return scene.swap()

    def tables_each_step() -> Tensor:
        with _phase_by_step():
            return scene.swap()

    def none() -> Tensor:
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(UNet, "prepare_context", lambda self, context, most: context))
            stack.enter_context(_phase_by_step())
            return scene.swap([every_row, every_map])

    return {
        "rows that nobody needs are computed": lambda: scene.swap([every_row]),
        "maps are built": lambda: scene.swap([every_map]),
        "the text's keys and values are made in each call": contexts_each_call,
        "tables of hooks are made in each step": tables_each_step,
        "all of these": none,
    }


@contextmanager
def _phase_by_step() -> Iterator[None]:
    whole = loop.phases

    def single(*arguments: object, **named: object) -> list[loop.Phase]:
        return [replace(phase, steps=(step,)) for phase in whole(*arguments, **named) for step in phase.steps]

    with mock.patch.object(loop, "phases", single):
        yield
