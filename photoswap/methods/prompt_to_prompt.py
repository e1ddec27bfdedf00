"""Prompt-to-Prompt (Hertz et al., ICLR 2023, arXiv:2208.01626): A of the source, and M at the coarser sites.

Settings bear the names of google/prompt-to-prompt. Its three edits are one alignment each: "replace" takes all of A,
word for word; "refine" the columns of the tokens both prompts share; reweighting scales columns of what either made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from models.tokenizer import Tokenizer
from photoswap.blend import Blend, LocalBlend
from photoswap.injections import COND, Injection
from photoswap.method import Follower, Method, Run, check_shares
from photoswap.tokens import Alignment, align_prompts, align_words, subject_tokens

EditName = Literal["replace", "refine"]


@dataclass(frozen=True, kw_only=True)
class PromptToPrompt(Method):
    """A for a share of the steps by the edit, M for another at sites of at most 1024 queries; conditional half alone.

    equalizer: words of the target's prompt, each with what its columns are multiplied by as long as A is injected.
    blend: keep the source's latents outside the subject, or None.
    """

    injected: ClassVar = ("edit", "cross_replace_steps", "self_replace_steps")
    edit: EditName = "refine"
    cross_replace_steps: float = 0.8
    self_replace_steps: float = 0.4
    equalizer: tuple[tuple[str, float], ...] = ()
    blend: Blend | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "cross_replace_steps", "self_replace_steps")
        if self.edit not in get_args(EditName):
            raise ValueError(f'edit is {self.edit!r}; want "replace" or "refine"')

    def injections(self, step: int) -> Iterator[Injection]:
        if step < int(self.steps * self.self_replace_steps):
            yield Injection("M", halves=COND, max_queries=32**2)
        if step < int((self.steps + 1) * self.cross_replace_steps):  # its table has one row more than steps
            yield Injection("A", halves=COND, alignment=self.edit)

    def alignments(self, tokenizer: Tokenizer, source: str, target: str) -> Mapping[str, Alignment]:
        made = {"replace": align_words, "refine": align_prompts}[self.edit](tokenizer, source, target)
        for word, weight in self.equalizer:
            made = made.reweighted(subject_tokens(tokenizer, target, word), weight)
        return {self.edit: made}

    def followers(self, run: Run, target: str) -> Sequence[Follower]:
        return [LocalBlend(self.blend, run, target)] if self.blend else []
