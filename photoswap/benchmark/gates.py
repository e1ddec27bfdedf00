"""Three gates before any table: where one is missed, differences between methods may be the miniature's fault."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from photoswap.benchmark.facts import way_name
from photoswap.benchmark.plan import RunPlan

AUTOENCODER, RETURNED, RECOGNISED = 26.0, 35.0, 0.8


class Gate(NamedTuple):
    """What is asked, the least that passes, what was found; None where nobody could say."""

    name: str
    least: float
    found: float | None
    unit: str

    @property
    def sentence(self) -> str:
        """The gate in one line."""
        wanted = f"at least {self._said(self.least)}"
        if self.found is None:
            return f"gate not judged: {self.name}: want {wanted}; there is no recogniser"
        said = "passed" if self.found >= self.least else "MISSED"
        return f"gate {said}: {self.name}: {self._said(self.found)}, want {wanted}"

    def _said(self, value: float) -> str:
        return f"{value:.0%}" if self.unit == "%" else f"{value:.1f} {self.unit}"


def gates_of(plan: RunPlan, facts: Sequence[Mapping[str, Any]]) -> list[Gate]:
    """The gates of a plan, from its tasks' facts: means over the tasks. Raises ValueError where there are none."""
    if not facts:
        raise ValueError("no task is finished; nothing can be said yet")
    found = [
        Gate(
            "the autoencoder inside the subject",
            AUTOENCODER,
            _mean([one["autoencoder"]["subject"] for one in facts]),
            "dB",
        )
    ]
    ways = {
        (entry.concept, entry.inversion): way_name(entry, plan)
        for entry in plan.entries
        if "none" not in (entry.concept, entry.inversion)
    }
    for (concept, inversion), name in ways.items():
        told = f"{inversion} back to the autoencoder's picture" + f", {concept}" * (len(plan.concepts) > 1)
        found.append(Gate(told, RETURNED, _mean([one["inversions"][name]["returned"] for one in facts]), "dB"))
    for concept in plan.concepts:
        shares = [one["concepts"][concept]["recognised"] for one in facts]
        share = None if None in shares else _mean(shares)
        found.append(Gate(f"plain samples that show the subject learnt by {concept}", RECOGNISED, share, "%"))
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
