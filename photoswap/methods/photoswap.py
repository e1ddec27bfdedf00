"""Photoswap (Gu et al., NeurIPS 2023, arXiv:2305.18286), Algorithm 1.

A lambda counts denoising steps from the first, noisiest one. (Algorithm 1 as printed swaps the last steps; its text and
its figures 4 and 9 say the first, which is followed here.)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from models.tokenizer import Tokenizer
from photoswap.blend import Blend, LocalBlend
from photoswap.injections import COND, Injection
from photoswap.method import Follower, Method, Run
from photoswap.tokens import Alignment, align_prompts

Align = Literal["tokens", "index"]


@dataclass(frozen=True, kw_only=True)
class Photoswap(Method):
    """The target takes phi for so many steps, M for so many, A for so many; never psi, which carries the new subject.

    phi goes in both halves of guidance, M and A in the conditional one. While phi is swapped M has no effect. align:
    "tokens" gives the target the source's columns of A for the tokens both prompts share, and leaves the concept its
    own (Prompt-to-Prompt's refinement); "index" copies A column for column, as the paper's formula reads. max_queries:
    M only at sites of at most so many. blend: keep the source's latents outside the subject, or None.
    """

    counts: ClassVar[tuple[str, ...]] = ("phi", "M", "A")
    injected: ClassVar[tuple[str, ...]] = ("phi", "M", "A", "align", "max_queries")
    phi: int = 10
    M: int = 25
    A: int = 20
    align: Align = "tokens"
    max_queries: int | None = None
    blend: Blend | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.align not in get_args(Align):
            raise ValueError(f'align is {self.align!r}; want "tokens" or "index"')
        if self.blend is not None and self.blend.start_at(self.steps) > self.steps:
            raise ValueError(f"the blend starts at step {self.blend.start}; want 0..{self.steps}")

    def injections(self, step: int) -> Iterator[Injection]:
        if step < self.phi:
            yield Injection("phi")
        elif step < self.M:
            yield Injection("M", halves=COND, max_queries=self.max_queries)
        if step < self.A:
            yield Injection("A", halves=COND, alignment="tokens" if self.align == "tokens" else None)

    def alignments(self, tokenizer: Tokenizer, source: str, target: str) -> Mapping[str, Alignment]:
        return {"tokens": align_prompts(tokenizer, source, target)} if self.align == "tokens" else {}

    def followers(self, run: Run, target: str) -> Sequence[Follower]:
        return [LocalBlend(self.blend, run, target)] if self.blend else []
