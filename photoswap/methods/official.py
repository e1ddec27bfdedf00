"""Photoswap by the rules of the code its authors released (eric-ai-lab/photoswap), where they differ from the paper's.

That code takes shares of all steps, and turns them into steps by rules of its own; it injects M only where there are
few queries, and always blends. README.md has the table of differences. What it fixes to 50 steps, and the layers it
blends by at 512 px, is here in proportion; the number of queries is absolute, as there.
"""

from typing import Any

from photoswap.blend import Blend

from .photoswap import Photoswap


def official(steps: int = 50, shares: tuple[float, float, float] = (0.4, 0.2, 0.3), **changes: Any) -> Photoswap:
    """Photoswap as released, which takes how long from shares of all steps.

    shares: of A, of phi, and of M on top of phi's; the defaults are the paper's 20, 10 and 25 of 50 in these terms. The
    released notebook has 0.6, 0.8, 0 and 0.9, 0.9, 0. changes: settings, taken as they are. Raises ValueError for
    shares outside 0..1, and where phi and M take more than all steps together.
    """
    A, phi, M = shares
    for name, share in zip(("A", "phi", "M"), shares, strict=True):
        if not 0 <= share <= 1:
            raise ValueError(f"the share of steps for {name} is {share}; want 0..1")
    if phi + M > 1:
        raise ValueError(f"phi and M take {phi} and {M} of the steps, one after the other; want at most 1 together")
    rules: dict[str, Any] = {
        "phi": min(int(steps * phi) + 1, steps),  # up to and including this step; 0 still means step 0
        "M": int(steps * (M + phi)),
        "A": min(int((steps + 1) * A), steps),  # read off a table one row longer than there are steps
        "max_queries": 32 * 32,  # an absolute count: all sites at 256 px, not the outermost at 512
        "blend": Blend(threshold=0.3, start=int(steps * 0.2), scale=4),
    }
    return Photoswap(steps=steps, **(rules | changes))
