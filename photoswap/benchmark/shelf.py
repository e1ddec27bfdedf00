"""Learnt subjects, each learnt once: kept by the base's fingerprint, the references and the settings of learning."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.entries import TUNED_FILE, read_tuned
from photoswap.benchmark.tasks import TOKEN, Newcomer
from train.concepts import Concept, open_concept
from train.config import CONFIGS, LearnConfig
from train.learn import CHECKPOINT_FILE, learn
from train.methods import LEARNING_METHODS
from train.presets import PRESETS
from weights import fingerprint
from weights.atomic import atomic

WAYS_OF_LEARNING = tuple(LEARNING_METHODS)
CLASSES, SECONDS = "classes", "seconds.json"
TUNED = "tuned"  # in a preset's place: the model's own, with what photoswap/benchmark/tune_concepts.py found


@dataclass(frozen=True, eq=False)
class ConceptShelf:
    """A folder of concepts for a base. changes: settings of learning that are not the preset's."""

    base: StableDiffusion = field(repr=False)
    folder: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = False

    @cached_property
    def base_mark(self) -> str:
        """The base's fingerprint, read once: it stays as it is."""
        return fingerprint(self.base)

    def config(self, newcomer: Newcomer, how: str) -> LearnConfig:
        """How a newcomer is learnt. how: a way of learning, or "WAY:PRESET"; the preset is else the model's own, and
        "tuned" is that with the settings found on the development stream.

        Raises ValueError for an unknown one, and for one that was not tuned.
        """
        check_concept(how)
        way, _, preset = how.partition(":")
        known = PRESETS[way].get(self.base.config.name if preset in ("", TUNED) else preset, {})
        if preset == TUNED:
            known = {**known, **tuned_learning(way)}
        return CONFIGS[way](newcomer.look.species, token=TOKEN, **{**known, **self.changes})

    def subject(self, newcomer: Newcomer, how: str) -> str:
        """What prompts call the newcomer, for instance "sks cat"."""
        config = self.config(newcomer, how)
        return " ".join(LEARNING_METHODS[config.method].subject(config)).strip()

    def key(self, newcomer: Newcomer, how: str) -> str:
        """What tells this concept from every other: sixteen hexadecimal digits."""
        pictures = [hashlib.sha256(image.tobytes()).hexdigest() for image in newcomer.references]
        what = [self.base_mark, how, pictures, self.config(newcomer, how).settings()]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def take(self, newcomer: Newcomer, how: str) -> tuple[Concept, float]:
        """The concept, and the seconds that it took to learn it; it is learnt where it is not there yet."""
        home = self.folder / self.key(newcomer, how)
        file = home / LEARNING_METHODS[how.partition(":")[0]].file
        if file.is_file() and (home / SECONDS).is_file():
            return open_concept(file), float(json.loads((home / SECONDS).read_text()))
        start = time.perf_counter()
        begun = (home / CHECKPOINT_FILE).is_file()
        concept = learn(
            self.base,
            newcomer.references,
            self.config(newcomer, how),
            home,
            progress=self.progress,
            resume=begun,
            overwrite=not begun,
            class_folder=self.folder / CLASSES,
        )
        seconds = time.perf_counter() - start
        with atomic(home / SECONDS) as place:
            place.write_text(json.dumps(round(seconds, 3)))
        return concept, seconds


def check_concept(how: str) -> None:
    """Raise ValueError for an unknown way of learning, or an unknown preset."""
    way, colon, preset = how.partition(":")
    if way not in WAYS_OF_LEARNING:
        raise ValueError(f"no way of learning {way!r}; want one of {', '.join(WAYS_OF_LEARNING)}, or all")
    if preset == TUNED:
        tuned_learning(way)
    elif colon and preset not in PRESETS[way]:
        raise ValueError(f"no preset {preset!r} of {way}; want one of {', '.join(PRESETS[way])}, or {TUNED}")


def tuned_learning(way: str, file: Path = TUNED_FILE) -> dict[str, Any]:
    """The settings of learning found on the development stream. Raises ValueError where that way was not tuned."""
    found: Mapping[str, Any] = read_tuned(file).get("concepts", {})
    if way not in found:
        raise ValueError(f"{way} has not been tuned; python -m photoswap.benchmark.tune_concepts --concepts {way} does")
    return dict(found[way]["settings"])
