"""What a method may say; each is a frozen dataclass of its settings (`photoswap/methods/__init__.py` tells how)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor

from models.hooks import Hooks, Site
from models.tokenizer import Tokenizer
from models.unet import UNet
from photoswap.injections import SOURCE, Injection, Row
from photoswap.pictures import Guidance, Picture
from photoswap.tokens import Alignment
from samplers import Eps, Schedule, Step, guided_eps

Latents: TypeAlias = Mapping[str, Tensor]  # (1 4 h w) by the picture's name
Update: TypeAlias = Callable[[Latents, Latents, Step], Latents]


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the loop, for what a method makes of it: its networks and pictures, its steps, its randomness."""

    unet: UNet
    schedule: Schedule
    steps: Sequence[Step]
    pictures: Mapping[str, Picture]
    generator: torch.Generator | None = None

    def draw(self, size: tuple[int, ...]) -> Tensor:
        """Standard normal numbers from the run's generator, drawn where it lives so that a seed means the same."""
        like = next(iter(self.pictures.values())).noise
        if self.generator is None:
            raise ValueError("this method draws noise: give the run a generator")
        drawn = torch.randn(size, generator=self.generator, device=self.generator.device, dtype=torch.float32)
        return drawn.to(like.device, like.dtype)

    def clean(self) -> Tensor:
        """The source's own latents, (1 4 h w). Raises ValueError where they were not given."""
        clean = self.pictures[SOURCE].clean if SOURCE in self.pictures else None
        if clean is None:
            raise ValueError("this method starts from the source's own latents: give them as `clean`")
        return clean

    def noised(self, alpha: float) -> Tensor:
        """The source's own latents carried to the noise level alpha (alpha_bar) with noise drawn anew, (1 4 h w)."""
        clean = self.clean()
        return alpha**0.5 * clean + (1 - alpha) ** 0.5 * self.draw(clean.shape)

    def eps(self, name: str) -> Eps:
        """The guided noise estimate under one picture's prompts, of any latents, (b 4 h w); nothing is injected."""
        picture = self.pictures[name]
        return guided_eps(
            self.unet,
            self.schedule,
            lambda step: picture.context_at("uncond", step.index),
            picture.context,
            lambda step: picture.guidance(step.index),
        )

    def mask(self, name: str) -> Tensor:
        """Where a picture's subject is, (1 1 h w) bool. Raises ValueError where nobody said."""
        if "subject" not in self.pictures[name].masks:
            raise ValueError(f"this method wants a mask of the {name}'s subject: give one")
        return self.pictures[name].masks["subject"][None, None].bool()


class Follower:
    """What watches a run and changes the latents after its steps; made anew for each run, so it may remember."""

    def rows(self) -> Iterable[Row]:
        """The rows it reads in every step, which are then computed."""
        return ()

    def hooks(self, rows: Sequence[Row], sites: Sequence[Site]) -> Hooks:
        """Its reading hooks in a batch of these rows; they see what was injected."""
        return {}

    def after(self, latents: Latents, step: Step) -> Latents:
        """The latents of all pictures after a step, those it changes changed."""
        return latents


@dataclass(frozen=True, kw_only=True)
class Method:
    """The settings that all methods have. Everything below does nothing unless a method says otherwise.

    steps: of the sampler. guidance_scale: one number, or one for each step. negative_prompt: what guidance leads away
    from. source_prompt: what the source is told, None for its own prompt; told nothing it is one row.
    source_guidance_scale: of the source's own estimate, None for the same. Raises ValueError for values that make no
    method.
    """

    counts: ClassVar[tuple[str, ...]] = ()  # fields that count steps, 0..steps, and scale with them
    draws: ClassVar[bool] = False  # whether it draws noise, so that a seed means something to it
    keeps_outside: ClassVar[bool] = False  # whether it says itself how long a mask's outside is the source's
    inverts: ClassVar[bool] = True  # whether it wants the source's inversion, not its own latents alone
    moves_source: ClassVar[bool] = False  # whether the source goes by its update, whatever is known of it
    needs_signal: ClassVar[bool] = False  # whether its update divides by the signal, of which pure noise has none
    wants: ClassVar[tuple[str, ...]] = ()  # "mask", of the subject; "reference", a picture of another, with its mask
    injected: ClassVar[tuple[str, ...]] = ()  # fields that do nothing but decide what is injected, and for how long
    steps: int = 50
    guidance_scale: Guidance = 7.5
    negative_prompt: str = ""
    source_prompt: str | None = None
    source_guidance_scale: Guidance | None = None

    def __post_init__(self) -> None:
        if not is_count(self.steps) or self.steps < 1:
            raise ValueError(f"steps is {self.steps}; want a whole number, at least 1")
        for name in self.counts:
            count = getattr(self, name)
            if not is_count(count) or not 0 <= count <= self.steps:
                raise ValueError(f"{name} is {count}; want a whole number of steps, 0..{self.steps}")
        for name in ("guidance_scale", "source_guidance_scale"):
            scale = getattr(self, name)
            if isinstance(scale, Sequence) and len(scale) != self.steps:
                raise ValueError(f"{name} has {len(scale)} values for {self.steps} steps; want as many")

    @classmethod
    def scaled(cls, steps: int, **changes: Any) -> Self:
        """The published proportions at another number of steps; changes are further settings, taken as they are."""
        usual = cls()
        complete = steps if is_count(steps) and steps > 0 else 0
        counts = {name: round(getattr(usual, name) * complete / usual.steps) for name in cls.counts}
        return cls(**{"steps": steps, **counts, **changes})

    @property
    def first(self) -> int:
        """The first step it takes; those before it are left out."""
        return 0

    @property
    def rows_before(self) -> int:
        """Rows of the network it computes before its first step."""
        return 0

    @property
    def beside_injections(self) -> tuple[Any, ...]:
        """Equal for methods that do the same as long as they inject the same."""
        return type(self), *(getattr(self, own.name) for own in fields(self) if own.name not in self.injected)

    def injections(self, step: int) -> Iterable[Injection]:
        """What goes from whom to whom in a step, 0 the noisiest."""
        return ()

    def alignments(self, tokenizer: Tokenizer, source: str, target: str) -> Mapping[str, Alignment]:
        """By the name that its injections use, how the tokens of two prompts answer to each other."""
        return {}

    def start(self, run: Run, target: str) -> Latents:
        """The latents before the first step of the pictures it moves."""
        return {target: run.pictures[target].noise}

    def followers(self, run: Run, target: str) -> Sequence[Follower]:
        """What watches the run and changes latents after steps."""
        return ()

    def update(self, run: Run, target: str) -> Update | None:
        """Another rule than DDIM's: (latents, guided eps, step) -> the latents after it of the pictures it moves."""
        return None


def is_count(value: object) -> bool:
    """Whether it is a whole number, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def share_of(steps: int, share: float) -> int:
    """The last steps that are this share of all, cut to a whole number, and at least one."""
    return max(1, int(steps * share))


def check_shares(method: Method, *names: str) -> None:
    """Raise ValueError unless these settings are shares of the steps, 0..1."""
    for name in names:
        share = getattr(method, name)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; want a share of the steps, 0..1")
