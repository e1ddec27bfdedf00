"""What a run of the benchmark is to do: which tasks, by whom, and how. Nothing here does it."""

from dataclasses import dataclass
from typing import Any, Literal

from photoswap.benchmark.entries import BASELINES, NOTHING_LEARNT, Entry, as_record
from photoswap.benchmark.shelf import check_concept
from photoswap.benchmark.tasks import check_task

CELL_VERSION = 1  # of what cells hold; another makes none of theirs true
Masks = Literal["words", "true"]


@dataclass(frozen=True)
class RunPlan:
    """Tasks 0 to tasks - 1 of a split and a kind, by every entry. Raises ValueError for what cannot be done.

    steps: of the sampler, None for each method's own. guidance_scale: of the model. masks: of methods that want one,
    and of pairs: found by the subjects' words, or the world's own. seed: of noise that is drawn. samples: plain
    pictures of each learnt subject, for the gate.
    """

    entries: tuple[Entry, ...]
    tasks: int = 8
    split: str = "dev"
    kind: str = "single"
    steps: int | None = None
    guidance_scale: float = 7.5
    masks: Masks = "words"
    seed: int = 0
    samples: int = 4

    def __post_init__(self) -> None:
        check_task(self.split, self.kind)
        if self.tasks < 1 or not self.entries:
            raise ValueError(f"{self.tasks} tasks by {len(self.entries)} entries; want at least one of each")
        for entry in self.entries:
            if entry.concept != NOTHING_LEARNT:
                check_concept(entry.concept)
            if not entry.paints:
                entry.make(self.guidance_scale, self.steps)

    @property
    def columns(self) -> tuple[Entry, ...]:
        """The entries and what they are measured against: the ceiling first, the floors last."""
        ceiling, *floors = (Entry(name) for name in BASELINES)
        return (ceiling, *self.entries, *floors)

    @property
    def concepts(self) -> list[str]:
        """The ways of learning, each once."""
        return list(dict.fromkeys(entry.concept for entry in self.entries if entry.concept != NOTHING_LEARNT))

    def made_by(self, entry: Entry, model: str, concepts: list[str]) -> dict[str, Any]:
        """All that a cell follows from. model: its fingerprint. concepts: the keys of what was learnt."""
        common = {"version": CELL_VERSION, "model": model}
        if entry.method in BASELINES:
            return common
        if entry.paints:
            return common | {"masks": self.masks, "seed": self.seed}
        method = entry.make(self.guidance_scale, self.steps)
        return {
            **common,
            "method": {"name": entry.method, **as_record(method)},
            "inversion": entry.inversion,
            "concepts": concepts,
            "masks": self.masks,
            "seed": self.seed,
        }
