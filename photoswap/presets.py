"""Named settings of the swap: the paper's, and those of the code that its authors released.

The two differ (README.md has the whole table). The paper counts steps: phi 10, M 25 and A 20 of 50. The released
code takes shares of all steps, and turns them into steps by rules of its own: it counts phi's last step in, lays M's
steps on top of phi's, and reads A's share off a table one row longer than there are steps. It swaps M only where there
are few places, and always blends. Where its text is fixed to 512 px and 50 steps, the rules here are the same at those
sizes and in proportion at others.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from .blend import Blend
from .plan import SwapPlan

Preset = Literal["paper", "official"]


@dataclass(frozen=True)
class Fractions:
    """How long the released code swaps, as shares of all steps.

    cross: of A. output: of phi. map: of M, after phi's; the two together are at most 1. The defaults are the paper's
    20, 10 and 25 of 50 steps in these terms. The released notebook has 0.6, 0.8, 0 and 0.9, 0.9, 0 for its examples.
    Raises ValueError for shares outside 0..1.
    """

    cross: float = 0.4
    output: float = 0.2
    map: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not 0 <= share <= 1:
                raise ValueError(f"the share of steps for {field.name} is {share}; want 0..1")
        if self.output + self.map > 1:
            raise ValueError(
                f"output and map take {self.output} and {self.map} of the steps, one after the other; want at most 1 "
                "together"
            )


def preset(name: Preset = "paper", steps: int = 50, fractions: Fractions | None = None, **changes: Any) -> SwapPlan:
    """The plan of that name at so many steps.

    fractions: for "official", its own way to say how long. changes: further fields of the plan, taken as they are, in
    steps where they count steps. Raises ValueError for another name, for fractions with "paper", and as SwapPlan does.
    """
    if name == "official":
        return official(steps, fractions or Fractions(), **changes)
    if name != "paper":
        raise ValueError(f"no preset {name!r}; want {' or '.join(get_args(Preset))}")
    if fractions is not None:
        raise ValueError('fractions belong to the preset "official"; the paper counts steps: give those')
    return SwapPlan.scaled(steps, **changes)


def official(steps: int, fractions: Fractions, **changes: Any) -> SwapPlan:
    """What the released code does with these fractions: every rule of it that is a number."""
    rules: dict[str, Any] = {
        "output": min(int(steps * fractions.output) + 1, steps),  # up to and including this step; 0 still means step 0
        "map": int(steps * (fractions.map + fractions.output)),
        "cross": min(int((steps + 1) * fractions.cross), steps),
        "map_scales": (2, 4, 8),  # where queries are at most a quarter of the latents: 32 x 32 at 512 px
        "align": "tokens",
        "blend": Blend(threshold=0.3, start=int(steps * 0.2), scale=4),
    }
    return SwapPlan(steps=steps, **(rules | changes))
