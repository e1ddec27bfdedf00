"""Who takes part: a method at published or tuned settings, an inversion, and a way of learning the subject."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from photoswap.inversions import INVERSIONS
from photoswap.inversions.file import InversionName
from photoswap.method import Method
from photoswap.methods import METHODS, Photoswap, official
from photoswap.paint_methods import PAINT_METHODS

OFFICIAL = "official"  # Photoswap as its authors released it
PAINTER = "painter"  # a network trained to paint
PAINTERS = (PAINTER, *(name for name in PAINT_METHODS if name != "network"))
NOT_INVERTED, NOTHING_LEARNT = "none", "none"
SETTINGS = ("published", "tuned")
TUNED_FILE = Path(__file__).parent / "tuned.json"
BASELINES = ("ceiling", "source", "pasted")  # the truth through the autoencoder, and two that swap nothing


@dataclass(frozen=True)
class Entry:
    """One column of the table.

    method: of METHODS, "official", one of PAINTERS or one of BASELINES. inversion: of INVERSIONS, "none" for methods
    that invert nothing. concept: how the subject is learnt, "none" for methods that take it from a reference. settings:
    of SETTINGS. changes: settings that are not the published ones.
    """

    method: str
    inversion: str = "direct"
    concept: str = "dreambooth"
    settings: str = "published"
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def paints(self) -> bool:
        """Whether it paints inside a mask, and swaps nothing."""
        return self.method in PAINTERS

    @property
    def key(self) -> str:
        """The entry as a file's name."""
        if self.method in BASELINES:
            return self.method
        parts = [self.method, self.inversion, self.concept.replace(":", "-"), self.settings]
        told = hashlib.sha256(json.dumps(self.changes).encode()).hexdigest()[:8]
        return "+".join(parts + [told] * bool(self.changes))

    def make(self, guidance_scale: float, steps: int | None = None) -> Method:
        """The method with its settings.

        guidance_scale: of the model; methods published with less keep theirs. steps: None for the method's own.
        Raises ValueError for settings that the method does not have, or has no such values of.
        """
        kind = method_kind(self.method)
        usual = kind()
        scale = usual.guidance_scale
        given: dict[str, Any] = {"guidance_scale": scale if isinstance(scale, tuple) else min(guidance_scale, scale)}
        changes = dict(self.changes)
        found_at = changes.pop("steps", usual.steps)
        steps = found_at if steps is None else steps
        given |= _scaled_counts(kind, changes, steps / found_at)
        if unknown := given.keys() - {field.name for field in fields(kind)}:
            raise ValueError(f"{self.method} has no setting {', '.join(sorted(unknown))}")
        return official(steps, **given) if self.method == OFFICIAL else kind.scaled(steps, **given)


def method_kind(method: str) -> type[Method]:
    """The class of a method's name. Raises ValueError for an unknown one."""
    if method not in METHODS and method != OFFICIAL:
        known = ", ".join((*METHODS, OFFICIAL, *PAINTERS))
        raise ValueError(f"no method {method!r}; want one of {known}, all for what swaps, or painters for what paints")
    return Photoswap if method == OFFICIAL else METHODS[method]


def _scaled_counts(kind: type[Method], changes: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Settings that were found at the method's own number of steps, at another."""
    return {name: round(value * share) if name in kind.counts else value for name, value in changes.items()}


def make_entries(
    methods: Sequence[str], inversions: Sequence[str], concepts: Sequence[str], settings: Sequence[str]
) -> tuple[Entry, ...]:
    """Every combination that means something, each once, in the order asked for.

    "all" is all that swap, "painters" all that paint, which learn and invert nothing and have published settings alone.
    Raises ValueError for unknown names, and where tuned settings are asked for and none are there.
    """
    several = {"all": (*METHODS, OFFICIAL), "painters": PAINTERS}
    names = [name for one in methods for name in several.get(one, (one,))]
    ways = [name for one in inversions for name in (INVERSIONS if one == "all" else (one,))]
    for way in ways:
        if way not in INVERSIONS:
            raise ValueError(f"no inversion {way!r}; want one of {', '.join(INVERSIONS)}, or all")
    found = []
    for how in settings:
        for name in names:
            if name in PAINTERS:
                found.append(Entry(name, NOT_INVERTED, NOTHING_LEARNT))
                continue
            kind = method_kind(name)
            changes = tuned_settings(name) if how == "tuned" else ()
            for concept in [NOTHING_LEARNT] if "reference" in kind.wants else concepts:
                for way in ways if kind.inverts else [NOT_INVERTED]:
                    found.append(Entry(name, way, concept, how, changes))
    return tuple(dict.fromkeys(found))


def tuned_settings(method: str, file: Path = TUNED_FILE) -> tuple[tuple[str, Any], ...]:
    """The settings found on the development stream. Raises ValueError where the method was not tuned."""
    tuned = read_tuned(file)["methods"]
    if method not in tuned:
        raise ValueError(f"{method} has not been tuned; python -m photoswap.benchmark.tune --methods {method} does so")
    return tuple((name, _frozen(value)) for name, value in tuned[method]["settings"].items())


def read_tuned(file: Path = TUNED_FILE) -> dict[str, Any]:
    """What the tuning wrote. Raises ValueError where there is nothing."""
    if not file.is_file():
        raise ValueError(f"there are no tuned settings in {file}; python -m photoswap.benchmark.tune makes them")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def as_record(method: Method) -> dict[str, Any]:
    """A method's settings as JSON gives them back."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(method)))
    return found


def label_of(entry: Entry, entries: Sequence[Entry]) -> str:
    """What to call an entry among others: its method, and whatever else tells it from them."""
    if entry.method in BASELINES:
        return {"ceiling": "the truth, autoencoded", "source": "the source, unswapped", "pasted": "a pasted reference"}[
            entry.method
        ]
    others = [other for other in entries if other.method not in BASELINES]
    parts = [entry.method]
    for name in ("inversion", "concept", "settings"):
        if len({getattr(other, name) for other in others} - {"none"}) > 1:
            parts.append(getattr(entry, name))
    return ", ".join(part for part in parts if part != "none")


def inversion_name(entry: Entry) -> InversionName:
    """The entry's inversion, for `invert_image`."""
    return entry.inversion  # type: ignore[return-value]
