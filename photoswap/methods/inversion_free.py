"""InfEdit (Xu et al., CVPR 2024, arXiv:2312.04965): nothing is inverted, the source walks its own forward process."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from models.tokenizer import Tokenizer
from photoswap.injections import COND, SOURCE, Injection
from photoswap.method import Latents, Method, Run, Update, check_shares
from photoswap.pictures import Guidance
from photoswap.tokens import Alignment, align_prompts
from samplers import Step


@dataclass(frozen=True, kw_only=True)
class InversionFree(Method):
    """M at all sites and A, for shares of the steps. eta: of fresh noise. InfEdit's third row and blend left out."""

    draws: ClassVar = True
    inverts: ClassVar = False
    moves_source: ClassVar = True
    needs_signal: ClassVar = True
    steps: int = 12
    guidance_scale: Guidance = 2.3
    source_guidance_scale: Guidance | None = 1.0
    cross_replace_steps: float = 0.7
    self_replace_steps: float = 0.7
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "cross_replace_steps", "self_replace_steps", "eta")

    def injections(self, step: int) -> Iterator[Injection]:
        if step + 1 < self.self_replace_steps * self.steps:
            yield Injection("M")
        if step + 1 <= self.cross_replace_steps * self.steps:
            yield Injection("A", halves=COND, alignment="tokens")

    def alignments(self, tokenizer: Tokenizer, source: str, target: str) -> Mapping[str, Alignment]:
        return {"tokens": align_prompts(tokenizer, source, target)}

    def start(self, run: Run, target: str) -> Latents:
        return dict.fromkeys((SOURCE, target), run.draw(run.pictures[target].noise.shape))

    def update(self, run: Run, target: str) -> Update:
        x0 = run.clean()

        def consistent(latents: Latents, eps: Latents, step: Step) -> Latents:
            a, b, apart = step.alpha_from, step.alpha_to, eps[target] - eps[SOURCE]
            aim = x0 + (latents[target] - latents[SOURCE] - (1 - a) ** 0.5 * apart) / a**0.5
            if step.index == self.steps - 1:
                return {SOURCE: x0, target: aim}
            own = (latents[SOURCE] - a**0.5 * x0) / (1 - a) ** 0.5
            noise = (1 - self.eta) ** 0.5 * (apart + own) + self.eta**0.5 * run.draw(x0.shape)
            return {name: b**0.5 * to + (1 - b) ** 0.5 * noise for name, to in ((SOURCE, x0), (target, aim))}

        return consistent
