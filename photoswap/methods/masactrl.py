"""MasaCtrl (Cao et al., ICCV 2023, arXiv:2304.08465): the target looks at the source's places, by its own queries.

Settings bear the names of TencentARC/MasaCtrl. It changes the pose and keeps the look: the opposite of phi.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from sys import maxsize
from typing import ClassVar, Literal, get_args

from photoswap.injections import Injection
from photoswap.method import Method, is_count

Kind = Literal["plain", "union", "mask"]


@dataclass(frozen=True, kw_only=True)
class MasaCtrl(Method):
    """Keys and values of the source from a step on, in the self-attention layers from a number on; both halves.

    layer: counted in execution order; Stable Diffusion has 16. kind: "plain"; "union", beside the target's own; or
    "mask", where the subject looks at the source's subject and the rest at the rest, by the pictures' masks "subject".
    """

    injected: ClassVar = ("step", "layer", "kind")
    step: int = 4
    layer: int = 10
    kind: Kind = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.step) or not is_count(self.layer) or min(self.step, self.layer) < 0:
            raise ValueError(f"step is {self.step} and layer {self.layer}; want whole numbers, 0 or more")
        if self.kind not in get_args(Kind):
            raise ValueError(f'kind is {self.kind!r}; want "plain", "union" or "mask"')

    def injections(self, step: int) -> Iterator[Injection]:
        layers = range(self.layer, maxsize)
        if step >= self.step and self.kind == "mask":
            for places in ("subject", "~subject"):
                yield Injection("keys and values", layers, within=places, where=places)
        elif step >= self.step:
            yield Injection("keys and values", layers, joined=self.kind == "union")
