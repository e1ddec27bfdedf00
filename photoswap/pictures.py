"""One picture of a run: where it starts, what it is told, and what is known about it beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

from .tokens import Alignment

Half: TypeAlias = Literal["uncond", "cond"]  # of classifier-free guidance
Guidance: TypeAlias = float | tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Picture:
    """A source, a target or a reference, as the loop needs it; nothing here is a picture in pixels.

    noise: the latents it starts from, (1 4 h w). context: of its prompt, (1 77 c). uncond: of the empty prompt,
    (1 77 c), or one for each step, (steps 77 c); None where its own prompt is what guidance leads away from, and then
    one row serves as both halves of guidance. guidance_scale: one number, or one for each step. known: the latents
    after each step where they are known beforehand, (steps 4 h w); then its own estimate of the noise is never asked
    for. words: the columns of its subject's tokens. alignments: by name, how the tokens of its prompt answer to the
    source's. masks: by name, places on the grid of the latents, (h w), true or false. clean: its own latents, without
    noise, (1 4 h w), for methods that start from them. origins: of a target, the pictures of the run that its method
    means by "source" and "reference", where they have other names. Raises ValueError for tensors of other shapes.
    """

    noise: Tensor
    context: Tensor
    uncond: Tensor | None = None
    guidance_scale: Guidance = 7.5
    known: Tensor | None = None
    words: Sequence[int] = ()
    alignments: Mapping[str, Alignment] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    clean: Tensor | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.noise.ndim != 4 or len(self.noise) != 1:
            raise ValueError(f"a picture's noise is {tuple(self.noise.shape)}; want (1, 4, h, w)")
        if self.context.ndim != 3 or len(self.context) != 1:
            raise ValueError(f"a picture's context is {tuple(self.context.shape)}; want (1, 77, c)")
        if self.uncond is not None and self.uncond.shape[1:] != self.context.shape[1:]:
            raise ValueError(
                f"a picture's context is {tuple(self.context.shape)} and its unconditional one "
                f"{tuple(self.uncond.shape)}; want the same tokens and width"
            )
        if self.known is not None and self.known.shape[1:] != self.noise.shape[1:]:
            raise ValueError(
                f"a picture starts from {tuple(self.noise.shape)} and is known at {tuple(self.known.shape)}; "
                "want (steps, 4, h, w) of the same size"
            )
        if self.clean is not None and self.clean.shape != self.noise.shape:
            raise ValueError(f"a picture's clean latents are {tuple(self.clean.shape)}; want {tuple(self.noise.shape)}")

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return self.noise.shape[2], self.noise.shape[3]

    @property
    def is_known(self) -> bool:
        """Whether its latents are known beforehand."""
        return self.known is not None

    def check(self, name: str, steps: int) -> None:
        """Raise ValueError unless what is said of each step is said of so many steps."""
        scales = len(self.guidance_scale) if isinstance(self.guidance_scale, tuple) else steps
        unconds = steps if self.uncond is None or len(self.uncond) == 1 else len(self.uncond)
        known = steps if self.known is None else len(self.known)
        for what, count in (("guidance scales", scales), ("unconditional contexts", unconds), ("latents", known)):
            if count != steps:
                raise ValueError(f"{name} has {count} {what} for {steps} steps; want as many")

    def before(self, index: int) -> Tensor:
        """The latents it stands at before step index, where they are known: (1 4 h w)."""
        return self.noise if index == 0 or self.known is None else self.known[index - 1][None]

    def guidance(self, index: int) -> float:
        """The guidance scale at a step."""
        return self.guidance_scale[index] if isinstance(self.guidance_scale, tuple) else self.guidance_scale

    def halves(self, index: int) -> tuple[Half, ...]:
        """The halves of guidance that its own estimate takes at a step: the conditional one alone at a scale of 1."""
        return ("cond",) if self.uncond is None or self.guidance(index) == 1 else ("uncond", "cond")

    def context_at(self, half: Half, index: int) -> Tensor:
        """What one half is told at a step, (1 77 c)."""
        if half == "cond" or self.uncond is None:
            return self.context
        return self.uncond if len(self.uncond) == 1 else self.uncond[index][None]
