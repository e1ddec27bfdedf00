"""What a finished plan says: means with intervals, paired differences, and who wins Table 1's question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from photoswap.benchmark.entries import BASELINES, Entry, label_of
from photoswap.benchmark.intervals import Interval, bootstrap, paired
from photoswap.benchmark.judge import SCORE_KINDS
from photoswap.benchmark.plan import RunPlan

Records = Mapping[str, Mapping[int, Mapping[str, Any]]]  # by entry's key and task's number
ASPECTS = {"subject": "subject_psnr", "background": "background_psnr", "overall": "overall_psnr"}  # Table 1's columns
ASKED_FIRST, ASKED_SECOND = "photoswap", "prompt-to-prompt"  # of Table 1's question


@dataclass(frozen=True, eq=False)
class Results:
    """Scores of a plan's entries by task. against: "scores", or "scores_against_autoencoder"."""

    plan: RunPlan
    records: Records
    against: str = "scores"

    @property
    def shown(self) -> list[Entry]:
        """The columns that have a result of every task."""
        return [entry for entry in self.plan.columns if self._complete(entry)]

    @property
    def refused(self) -> dict[str, str]:
        """By label, why an entry has no results."""
        found = {}
        for entry in self.plan.columns:
            said = [record["refused"] for record in self._of(entry).values() if "refused" in record]
            if said:
                found[self.label(entry)] = said[0]
        return found

    @property
    def names(self) -> list[str]:
        """The scores that every shown entry has, in their order."""
        return [name for name in SCORE_KINDS if all(name in self._scores(entry)[0] for entry in self.shown)]

    def label(self, entry: Entry) -> str:
        """What the tables call an entry."""
        return label_of(entry, self.plan.columns)

    def values(self, entry: Entry, name: str) -> list[float]:
        """One score of an entry, a value for each task."""
        return [scores[name] for scores in self._scores(entry)]

    def mean(self, entry: Entry, name: str) -> Interval:
        """One score of an entry over the tasks."""
        return bootstrap(self.values(entry, name))

    def difference(self, entry: Entry, other: Entry, name: str) -> Interval:
        """By how much an entry's score is above another's on the same tasks."""
        return paired(self.values(entry, name), self.values(other, name))

    def cost(self, entry: Entry, name: str) -> float:
        """The mean of "seconds" or "row_calls"."""
        told = [record[name] for record in self._of(entry).values()]
        return float(sum(told) / len(told))

    def _of(self, entry: Entry) -> Mapping[int, Mapping[str, Any]]:
        return self.records.get(entry.key, {})

    def _scores(self, entry: Entry) -> list[Mapping[str, float]]:
        found = self._of(entry)
        return [found[index][self.against] for index in range(self.plan.tasks)]

    def _complete(self, entry: Entry) -> bool:
        found = self._of(entry)
        return all("scores" in found.get(index, {}) for index in range(self.plan.tasks))


class Duel(NamedTuple):
    """Two entries on one aspect: the difference, and how many tasks each wins."""

    aspect: str
    difference: Interval
    won: int
    lost: int

    @property
    def verdict(self) -> str:
        """Who wins, in a few words."""
        if not self.difference.is_told:
            return "it cannot be told"
        return "the first wins" if self.difference.mean > 0 else "the second wins"


def duel(results: Results, first: Entry, second: Entry) -> list[Duel]:
    """Two entries compared on the aspects that the paper's Table 1 asks people about."""
    found = []
    for aspect, name in ASPECTS.items():
        pairs = list(zip(results.values(first, name), results.values(second, name), strict=True))
        won, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        found.append(Duel(aspect, results.difference(first, second, name), won, lost))
    return found


def table_one(results: Results) -> list[tuple[str, list[Duel]]]:
    """The paper's question, Photoswap against Prompt-to-Prompt with the same learnt subject, for each such pair."""
    found = []
    for first in results.shown:
        for second in results.shown:
            same = all(getattr(first, name) == getattr(second, name) for name in ("inversion", "concept", "settings"))
            if (first.method, second.method) == (ASKED_FIRST, ASKED_SECOND) and same:
                found.append((f"{results.label(first)} against {results.label(second)}", duel(results, first, second)))
    return found


def duel_records(results: Results) -> list[dict[str, Any]]:
    """Table 1's question and answer as JSON holds them."""
    return [
        {
            "question": name,
            "answer": answer(duels, results.plan.split),
            "aspects": {d.aspect: {**d.difference._asdict(), "won": d.won, "lost": d.lost} for d in duels},
        }
        for name, duels in table_one(results)
    ]


def answer(duels: Sequence[Duel], split: str) -> str:
    """Table 1's question answered in one sentence."""
    said = []
    for one in duels:
        how = f"{one.difference.mean:+.2f} dB [{one.difference.low:+.2f}, {one.difference.high:+.2f}]"
        who = {"the first wins": "Photoswap wins", "the second wins": "Prompt-to-Prompt wins"}
        said.append(f"on {one.aspect} {who.get(one.verdict, one.verdict)} ({how})")
    tasks = duels[0].difference.tasks
    return f"Over {tasks} tasks of the {split} split, {', '.join(said[:-1])}, and {said[-1]}."


def reference_entry(results: Results) -> Entry | None:
    """The entry that others are compared with: the first Photoswap, else the first there is."""
    shown = [entry for entry in results.shown if entry.method not in BASELINES]
    return next((entry for entry in shown if entry.method == ASKED_FIRST), shown[0] if shown else None)
