"""One task being done: its subjects learnt, its source inverted, its swaps made, each part once."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image

from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.entries import BASELINES, NOT_INVERTED, NOTHING_LEARNT, Entry, inversion_name
from photoswap.benchmark.judge import Carried
from photoswap.benchmark.painted import Easel, paint_task, pasted_over
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.shapes import carried
from photoswap.benchmark.shelf import ConceptShelf
from photoswap.benchmark.tasks import Task
from photoswap.inversion import Inversion, encode, invert_image
from photoswap.inversions.file import GUIDED
from photoswap.masks import find_subjects
from photoswap.method import Method
from photoswap.pipeline import SwapRequest, swap_all
from photoswap.staging import Reference
from photoswap.turns import Turn
from train.concepts import apply_concept


@dataclass(frozen=True, eq=False)
class EntryResult:
    """What an entry made of a task: the result; seconds of inverting and swapping; rows of the network; settings."""

    picture: Image.Image
    seconds: float = 0.0
    row_calls: int = 0
    settings: list[dict[str, Any]] = field(default_factory=list)


class Workbench:
    """A task, the model, and the shelf of subjects; those of one way of learning are in memory at a time."""

    def __init__(
        self, base: StableDiffusion, shelf: ConceptShelf, plan: RunPlan, task: Task, easel: Easel | None = None
    ) -> None:
        self.base, self.shelf, self.plan, self.task, self.easel = base, shelf, plan, task, easel or Easel()
        self._learnt: tuple[str, list[StableDiffusion]] = "", []
        self._inverted: dict[tuple[Any, ...], tuple[Inversion, float]] = {}
        self._shown: dict[tuple[int, int], tuple[Reference, float]] = {}

    @cached_property
    def carried(self) -> Carried:
        """Source and truth through the autoencoder."""
        return Carried(*(carried(self.base, picture.image) for picture in (self.task.source, self.task.truth)))

    @cached_property
    def masks(self) -> list[Image.Image]:
        """Where the source's subjects are: the world's own masks, or those that their words find."""
        if self.plan.masks == "true":
            return list(self.task.source.masks)
        found = find_subjects(self.base, self.task.source.image, self.task.prompt, self.task.words, seed=self.plan.seed)
        return [one.mask for one in found]

    def models(self, concept: str) -> list[StableDiffusion]:
        """For each newcomer the model that knows it, or, without a concept, the base."""
        if concept == NOTHING_LEARNT:
            return [self.base] * len(self.task.newcomers)
        if self._learnt[0] != concept:
            taken = [self.shelf.take(newcomer, concept)[0] for newcomer in self.task.newcomers]
            self._learnt = concept, [apply_concept(self.base, one) for one in taken]
            self._inverted.clear()
        return self._learnt[1]

    def called(self, concept: str) -> list[str]:
        """The words for the newcomers in prompts."""
        if concept == NOTHING_LEARNT:
            return self.task.species
        return [self.shelf.subject(newcomer, concept) for newcomer in self.task.newcomers]

    def do(self, entry: Entry) -> EntryResult:
        """Make the entry's result. Raises ValueError for settings that contradict each other."""
        if entry.method in BASELINES:
            return EntryResult(self._baseline(entry.method))
        if entry.paints:
            return self._painted(entry)
        method = entry.make(self.plan.guidance_scale, self.plan.steps)
        models = self.models(entry.concept)
        picture, done, rows, seconds = self.task.source.image, [], 0, 0.0
        for i, turn in enumerate(self.task.turns(self.called(entry.concept))):
            inversion, spent = self.inverted(models[i], entry, method, turn, picture if i else None)
            request, shown = self._request(models[i], inversion, method, turn, i)
            spent, start = spent + shown, time.perf_counter()
            (result,) = swap_all(models[i], [request])
            picture, rows = result.result, rows + int(result.settings["row_calls"])
            seconds += spent + time.perf_counter() - start
            done.append(result.settings)
        return EntryResult(picture, round(seconds, 3), rows, done)

    def inverted(
        self, model: StableDiffusion, entry: Entry, method: Method, turn: Turn, later: Image.Image | None = None
    ) -> tuple[Inversion, float]:
        """A picture inverted as the entry says, and the seconds that took. later: None for the task's own source."""
        picture = later or self.task.source.image
        scale = method.guidance_scale if entry.inversion in GUIDED else 1.0
        key = (entry.concept, entry.inversion, method.steps, scale, turn.source)
        if later is None and key in self._inverted:
            return self._inverted[key]
        start = time.perf_counter()
        if entry.inversion == NOT_INVERTED:
            made = encode(model, picture, turn.source, method.steps)
        else:
            made = invert_image(model, picture, turn.source, inversion_name(entry), method.steps, method.guidance_scale)
        found = made, time.perf_counter() - start
        if later is None:
            self._inverted[key] = found
        return found

    def _request(
        self, model: StableDiffusion, inversion: Inversion, method: Method, turn: Turn, number: int
    ) -> tuple[SwapRequest, float]:
        """One swap, and the seconds that inverting its reference took, where the method wants one.

        With a mask where the method wants that, and where several subjects are swapped one by one.
        """
        masked = "mask" in method.wants or len(self.task.newcomers) > 1
        shown, spent = self._reference(model, number, method.steps) if "reference" in method.wants else (None, 0.0)
        asked = SwapRequest(
            inversion,
            turn.target,
            method,
            source_word=turn.source_word,
            target_word=turn.target_word,
            mask=self.masks[number] if masked else None,
            reference=shown,
            seed=self.plan.seed,
        )
        return asked, spent

    def _reference(self, base: StableDiffusion, number: int, steps: int) -> tuple[Reference, float]:
        """The newcomer's first picture, inverted by the base once, and the seconds that took; it is told nothing."""
        if (number, steps) not in self._shown:
            shown, start = self.task.newcomers[number].pictures[0], time.perf_counter()
            inverted = invert_image(base, shown.image, "", "direct", steps)
            self._shown[number, steps] = Reference(inverted, shown.mask), time.perf_counter() - start
        return self._shown[number, steps]

    def _painted(self, entry: Entry) -> EntryResult:
        """The newcomers painted into the old subjects' boxes."""
        method = self.easel.method(entry, self.plan.guidance_scale, self.plan.steps)
        source, shown = self.task.source.image, _shown(self.task)
        return EntryResult(*paint_task(entry, self.easel, self.base, method, source, shown, self.masks, self.plan.seed))

    def _baseline(self, name: str) -> Image.Image:
        if name == "ceiling":
            return self.carried.truth
        return self.task.source.image if name == "source" else pasted(self.task)


def pasted(task: Task) -> Image.Image:
    """The source with each newcomer cut out of its first reference and laid over the one it replaces, as large."""
    return pasted_over(task.source.image, list(task.source.masks), _shown(task))


def _shown(task: Task) -> list[tuple[Image.Image, Image.Image, str]]:
    """Of each newcomer its first picture, where that shows it, and what it is."""
    return [(one.pictures[0].image, one.pictures[0].mask, one.look.species) for one in task.newcomers]
