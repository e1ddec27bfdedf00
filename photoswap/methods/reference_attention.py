"""A subject without training: the target looks at a reference picture, as in MCA-Ctrl (arXiv:2505.01428).

First, for a share of the steps, self-attention's output comes from the reference inside the target's mask and from the
source outside it, each looking at its own subject or background alone; from then on the target's own queries look
there. FreeCustom (arXiv:2405.13870) joins the reference's places to the target's own instead (`Injection.joined`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from sys import maxsize
from typing import ClassVar

from photoswap.injections import REFERENCE, SOURCE, Injection
from photoswap.method import Method, check_shares, is_count


@dataclass(frozen=True, kw_only=True)
class ReferenceAttention(Method):
    """phi for a share of the steps, then keys and values from a step and a self-attention layer on; both halves.

    start_layer: counted in execution order; Stable Diffusion has 16. Where both are due phi goes before.
    """

    keeps_outside: ClassVar = True
    wants: ClassVar = ("mask", "reference")
    injected: ClassVar = ("self_replace_steps", "start_step", "start_layer")
    self_replace_steps: float = 0.1
    start_step: int = 4
    start_layer: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "self_replace_steps")
        for name in ("start_step", "start_layer"):
            if not is_count(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; want a whole number, 0 or more")

    def injections(self, step: int) -> Iterator[Injection]:
        for origin, places in ((REFERENCE, "subject"), (SOURCE, "~subject")):
            if step < int(self.steps * self.self_replace_steps):
                yield Injection("phi", origin=origin, within=places, where=places)
            elif step >= self.start_step:
                layers = range(self.start_layer, maxsize)
                yield Injection("keys and values", layers, origin=origin, within=places, where=places)
