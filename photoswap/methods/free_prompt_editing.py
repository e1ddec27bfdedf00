"""Free-Prompt-Editing (Liu et al., CVPR 2024, arXiv:2403.03431): M alone, for A carries what the object is.

Settings bear the names of alibaba/EasyNLP, FreePromptEditing. A real picture is told nothing there, and stands where
its inversion stood.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from photoswap.injections import COND, Injection
from photoswap.method import Method, check_shares


@dataclass(frozen=True, kw_only=True)
class FreePromptEditing(Method):
    """M for a share of the steps, at sites of at most 32 x 32 queries, in the conditional half."""

    injected: ClassVar = ("self_replace_steps",)
    self_replace_steps: float = 0.8
    source_prompt: str | None = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "self_replace_steps")

    def injections(self, step: int) -> Iterator[Injection]:
        if step < int(self.steps * self.self_replace_steps):
            yield Injection("M", halves=COND, max_queries=32**2)
