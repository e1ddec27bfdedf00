"""What goes from whom to whom: the one sentence that every method of this family is made of.

Photoswap (arXiv:2305.18286, Algorithm 1), Prompt-to-Prompt, Plug-and-Play and MasaCtrl all say: in this step, at these
sites, this row of the batch goes on with something that another row computed. The field calls that an injection. So a
method is data, the loop is one (`side_by_side`), and which rows are worth computing follows from the data.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from models.hooks import Site

from .pictures import Half, Picture

Quantity: TypeAlias = Literal["phi", "psi", "M", "A", "keys and values", "queries and keys", "features"]
Steps: TypeAlias = tuple[int, int]  # the first and the last
BOTH: tuple[Half, ...] = ("uncond", "cond")
COND: tuple[Half, ...] = ("cond",)
SOURCE, TARGET, REFERENCE = "source", "target", "reference"  # the pictures that methods speak of
SITE_KINDS = {"psi": "cross", "A": "cross", "features": "features"}  # of the sites; all else is of self-attention


class Row(NamedTuple):
    """One row of the batch, by name; indices are looked up, never written."""

    half: Half
    picture: str

    def __str__(self) -> str:
        return f"{self.half} {self.picture}"


def everywhere(site: Site) -> bool:
    """All sites of the quantity's kind."""
    return True


@dataclass(frozen=True)
class Injection:
    """In a step, at these sites, the rows of `into` go on with what the rows of `origin` computed.

    quantity: phi, the output of self-attention; M, its map; A, the map of cross-attention; psi, its output; "keys and
    values", the target's queries looking at the origin's places; "queries and keys", which is M by the name that
    Plug-and-Play gives it; "features" of a residual block. sites: those of the quantity's kind for which this is true,
    or their addresses, or their numbers among the kind's in execution order. halves: of guidance. origin, into: names
    of pictures. alignment: for A, the name of one of the target's alignments; None takes it column for column.
    max_queries: only where there are at most so many. joined: for keys and values, beside the target's own instead of
    in their place. within: for phi and for keys and values, the origin's places looked at, the name of one of its
    masks. where: the target's places that take it, the name of one of its masks; elsewhere the row goes on as it would
    without. A mask's name behind a "~" is all outside it. Raises ValueError for a combination that means nothing.
    """

    quantity: Quantity
    sites: Callable[[Site], bool] | tuple[Site, ...] | range = everywhere
    halves: tuple[Half, ...] = BOTH
    origin: str = SOURCE
    into: str = TARGET
    alignment: str | None = None
    max_queries: int | None = None
    joined: bool = False
    within: str | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        if self.quantity not in get_args(Quantity):
            raise ValueError(f"no quantity {self.quantity!r}; want one of {', '.join(get_args(Quantity))}")
        if self.alignment is not None and self.quantity != "A":
            raise ValueError(f"{self.quantity} has no tokens to align; an alignment belongs to A")
        if self.joined and self.quantity != "keys and values":
            raise ValueError(f"{self.quantity} cannot be joined; keys and values can")
        if self.within is not None and self.quantity not in ("phi", "keys and values"):
            raise ValueError(f"{self.quantity} cannot be taken from within a mask; phi, keys and values can")
        if self.where is not None and self.quantity == "features":
            raise ValueError("features are injected everywhere; leave out `where`")

    def at(self, sites: Iterable[Site], size: tuple[int, int]) -> "Injection":
        """The same with its addresses listed, for a U-Net with these sites and latents of (h, w)."""
        of_kind = [site for site in sites if site.kind == SITE_KINDS.get(self.quantity, "self")]
        chosen = [site for number, site in enumerate(of_kind) if self._wants(number, site)]
        if self.max_queries is not None:
            chosen = [site for site in chosen if size[0] * size[1] // site.scale**2 <= self.max_queries]
        return replace(self, sites=tuple(chosen))

    def aimed_at(self, target: str, origins: Mapping[str, str]) -> "Injection":
        """The same into another target than the one that methods name, and from the pictures that they mean by it."""
        into, origin = {TARGET: target, **origins}.get(self.into, self.into), origins.get(self.origin, self.origin)
        return self if (origin, into) == (self.origin, self.into) else replace(self, origin=origin, into=into)

    @property
    def addresses(self) -> tuple[Site, ...]:
        """Of its sites, once `at` has listed them."""
        if not isinstance(self.sites, tuple):
            raise ValueError(f"the sites of {self.quantity} are not listed yet: call at(sites, size) first")
        return self.sites

    def pairs(self, pictures: Mapping[str, Picture]) -> list[tuple[Row, Row]]:
        """The row that gives and the row that takes, for each half that the target has."""
        for name in (self.origin, self.into):
            if name not in pictures:
                raise ValueError(f"{self.quantity} goes from {self.origin} to {self.into}, but there is no {name}")
        # a picture told nothing has one row for both halves
        has_halves = {name: pictures[name].uncond is not None for name in (self.origin, self.into)}
        return [
            (Row(half if has_halves[self.origin] else "cond", self.origin), Row(half, self.into))
            for half in self.halves
            if has_halves[self.into] or half == "cond"
        ]

    def _wants(self, number: int, site: Site) -> bool:
        if isinstance(self.sites, range):
            return number in self.sites
        return site in self.sites if isinstance(self.sites, tuple) else self.sites(site)


Injections: TypeAlias = Callable[[int], Iterable[Injection]]  # of a step


def rows_needed(own: Iterable[Row], injections: Iterable[Injection], pictures: Mapping[str, Picture]) -> set[Row]:
    """The rows whose own estimate is asked for, and those that they take from, directly or through others."""
    rows = set(own)
    pairs = [pair for injection in injections if injection.addresses for pair in injection.pairs(pictures)]
    while more := {origin for origin, into in pairs if into in rows} - rows:
        rows |= more
    return rows


def timeline(
    injections: Injections, steps: int, sites: Sequence[Site], size: tuple[int, int]
) -> list[tuple[Steps, Injection]]:
    """Every injection of a method with the steps through which it lasts, first and last, in the order they begin."""
    at = [[injection.at(sites, size) for injection in injections(step)] for step in range(steps)]
    found: list[tuple[Steps, Injection]] = []
    for injection in dict.fromkeys(injection for step in at for injection in step if injection.sites):
        for present, run in groupby(range(steps), key=lambda step: injection in at[step]):
            stretch = list(run)
            if present:
                found.append(((stretch[0], stretch[-1]), injection))
    return sorted(found, key=lambda entry: entry[0])


def as_table(found: Sequence[tuple[Steps, Injection]]) -> str:
    """The timeline as text, a line for each: steps, quantity, from whom to whom, halves, sites."""
    lines = [("steps", "what", "from", "into", "halves", "sites")]
    for (first, last), injection in found:
        what = " ".join(
            [injection.quantity]
            + [f"by {injection.alignment}"] * (injection.alignment is not None)
            + ["joined"] * injection.joined
            + [f"within {injection.within}"] * (injection.within is not None)
            + [f"where {injection.where}"] * (injection.where is not None)
        )
        halves = " and ".join(injection.halves)
        lines.append(
            (f"{first}-{last}", what, injection.origin, injection.into, halves, _summed_up(injection.addresses))
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def as_json(found: Sequence[tuple[Steps, Injection]]) -> list[dict[str, Any]]:
    """The timeline as plain values; what an injection leaves at its default is left out."""
    entries = []
    for steps, injection in found:
        entry: dict[str, Any] = {"steps": list(steps), "quantity": injection.quantity, "halves": list(injection.halves)}
        entry |= {
            "origin": injection.origin,
            "into": injection.into,
            "sites": [str(site) for site in injection.addresses],
        }
        rest = {name: getattr(injection, name) for name in ("alignment", "max_queries", "joined", "within", "where")}
        entries.append(entry | {name: value for name, value in rest.items() if value})
    return entries


def _summed_up(sites: tuple[Site, ...]) -> str:
    """ "16 self sites, down.0.0 to up.3.2"."""
    if len(sites) == 1:
        return str(sites[0])
    ends = [str(site).removesuffix(f".{site.kind}") for site in (sites[0], sites[-1])]
    return f"{len(sites)} {sites[0].kind} sites, {ends[0]} to {ends[1]}"
