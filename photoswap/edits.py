"""From injections to hooks: what one attention layer does in a batch whose rows take from one another.

Each row of the batch goes on with a sum of attentions, mostly of one: a row's own is softmax(q_i k_i) v_i. Every
injection changes whose q, k and v those are (Photoswap, arXiv:2305.18286, section 3.3):

    phi     softmax(q_o k_o) v_o            the origin's, computed once and used twice
    M       softmax(q_o k_o) v_i            the origin's map over the target's own values, and A by index
    A       softmax(q_o k_o) (T v_i) + softmax(q_i k_i) (s * v_i)    columns realigned by T, a share s kept: all linear
                                            in the columns, so they belong to the values and no map is built
    keys and values     softmax(q_i k_o) v_o

What a layer needs is then a handful of fused calls over gathered rows. Where somebody reads maps, the same is done with
the map built (`readable`).
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import pairwise
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.hooks import Hook, Projections, Site

from .injections import Injection, Row
from .pictures import Picture
from .tokens import Alignment

Parts: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Term:
    """One attention of the sum a row goes on with: queries of row q over the keys and values of rows k and v.

    k, v: one row, or several whose places are joined. within: (m,) the places looked at, None for all. values: what the
    values are multiplied by from the left, (m m), or a share for each, (m,). where: (n 1) the share of each query.
    """

    q: int
    k: Parts
    v: Parts
    within: Tensor | None = None
    values: Tensor | None = None
    where: Tensor | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for terms that compute the same thing."""
        return self.q, self.k, self.v, id(self.within), id(self.values)


def hook_table(
    injections: Sequence[Injection],
    rows: Sequence[Row],
    pictures: Mapping[str, Picture],
    read: AbstractSet[Site] = frozenset(),
) -> dict[Site, Hook]:
    """What to do at which site so that a batch of these rows does as the injections say; in their order at each site.

    injections: with their sites listed. rows: the batch. read: sites whose maps somebody will read, where they are
    built. Index and alignment tensors are made here, once, on the latents' device.
    """
    by_site: dict[Site, list[Injection]] = {}
    for injection in injections:
        for site in injection.addresses:
            by_site.setdefault(site, []).append(injection)
    batch = _Batch(rows, pictures)
    table = {site: batch.hook(site, there, site in read) for site, there in by_site.items()}
    return {site: hook for site, hook in table.items() if hook is not None}


@dataclass(frozen=True, eq=False)
class _Batch:
    """The rows of one call, and the tensors that its hooks share."""

    rows: Sequence[Row]
    pictures: Mapping[str, Picture]
    shared: dict[object, Tensor] = field(default_factory=dict)

    def hook(self, site: Site, injections: Sequence[Injection], read: bool) -> Hook | None:
        """What one layer does, None where nothing is injected into these rows."""
        if site.kind == "features":
            return self._features(injections)
        own = {i: [Term(i, (i,), (i,))] for i in range(len(self.rows))}
        terms = dict(own)
        for injection in injections:
            for o, i in self._indices(injection):
                new = self._terms(site, injection, o, i)
                mask = injection.where and self._mask(self.rows[i].picture, injection.where, site)
                if isinstance(mask, Tensor):
                    shares = _shared_out(new, mask) + _shared_out(terms[i], 1 - mask)
                    new = [term for term in shares if term.where is not None and term.where.any()]
                terms[i] = new
        if all(terms[i] is own[i] for i in own):
            return None
        rows = [terms[i] for i in own]
        return readable(rows, site, self._device) if read else fused(rows, self._device)

    def _indices(self, injection: Injection) -> list[tuple[int, int]]:
        """Origin and target of each pair whose target is in the batch."""
        pairs = injection.pairs(self.pictures)
        return [(self.rows.index(origin), self.rows.index(into)) for origin, into in pairs if into in self.rows]

    def _terms(self, site: Site, injection: Injection, o: int, i: int) -> list[Term]:
        match injection.quantity:
            case "phi" | "psi":
                return [Term(o, (o,), (o,), self._within(site, injection, o))]
            case "keys and values":
                parts = (i, o) if injection.joined else (o,)
                return [Term(i, parts, parts, self._within(site, injection, o))]
            case "A" if injection.alignment is not None:
                taken, own = self._alignment(self.rows[i].picture, injection.alignment)
                return [Term(o, (o,), (i,), values=taken), Term(i, (i,), (i,), values=own)]
            case _:
                return [Term(o, (o,), (i,))]

    def _features(self, injections: Sequence[Injection]) -> Hook | None:
        sources = list(range(len(self.rows)))
        for o, i in (pair for injection in injections for pair in self._indices(injection)):
            sources[i] = o
        index = _Rows(sources, self._device)
        return None if index.in_place else Hook(output=index)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.pictures.values())).noise.device

    def _alignment(self, picture: str, name: str) -> tuple[Tensor, Tensor]:
        """What the source's maps and the target's own are multiplied by, as factors of the values."""
        held: Mapping[str, Alignment] = self.pictures[picture].alignments
        if name not in held:
            raise ValueError(f'{picture} has no alignment "{name}"; it has {", ".join(held) or "none"}')
        taken = self.shared.setdefault((picture, name, "taken"), held[name].taken.to(self._device))
        return taken, self.shared.setdefault((picture, name, "own"), held[name].own.to(self._device))

    def _mask(self, picture: str, name: str, site: Site) -> Tensor:
        """A mask of a picture at the places of a site: (n 1), 0 or 1."""
        held, bare = self.pictures[picture].masks, name.removeprefix("~")
        if bare not in held:
            raise ValueError(f'{picture} has no mask "{bare}"; it has {", ".join(held) or "none"}')
        key = (picture, name, site.scale)
        if key not in self.shared:
            h, w = (side // site.scale for side in held[bare].shape)
            small = F.interpolate(held[bare][None, None].to(self._device, torch.float32), (h, w), mode="nearest")
            self.shared[key] = (1 - small if name != bare else small).reshape(-1, 1)
        return self.shared[key]

    def _within(self, site: Site, injection: Injection, origin: int) -> Tensor | None:
        """The places looked at, None for all: the origin's inside its mask, all of its where that is empty here."""
        if injection.within is None:
            return None
        picture = self.rows[origin].picture
        key = (picture, injection.within, site.scale, injection.joined)
        if key not in self.shared:
            inside = self._mask(picture, injection.within, site)[:, 0]
            every = torch.arange(len(inside), device=self._device)
            places = inside.nonzero()[:, 0] if inside.any() else every
            self.shared[key] = torch.cat([every, len(every) + places]) if injection.joined else places
        return self.shared[key]


def fused(rows: Sequence[Sequence[Term]], device: torch.device) -> Hook:
    """A layer in which row i goes on with the sum of rows[i], every different term computed once and no map built."""
    unique = list({term.key: term for terms in rows for term in terms}.values())
    groups: dict[object, list[Term]] = {}
    for term in unique:
        groups.setdefault((len(term.k), id(term.within)), []).append(term)
    calls = [_Call(terms, len(rows), device) for terms in groups.values()]
    place = {term.key: i for i, term in enumerate(term for terms in groups.values() for term in terms)}
    first = _Rows([place[terms[0].key] for terms in rows], device, len(unique))
    # looked up here, by place: a compiled network would else take a term's identity for a constant
    sums = {
        i: [(place[term.key], term.where) for term in terms]
        for i, terms in enumerate(rows)
        if len(terms) > 1 or terms[0].where is not None
    }

    def attended(q: Tensor, k: Tensor, v: Tensor) -> list[Projections]:
        return [call(q, k, v) for call in calls]

    def answer(heads: Tensor) -> Tensor:
        added = {i: reduce(torch.add, (_share(heads[at], where) for at, where in parts)) for i, parts in sums.items()}
        out = first(heads)
        for i, total in added.items():
            out[i] = total
        return out

    return Hook(qkv=attended, output=answer)


class _Call:
    """What goes into one fused call over the gathered rows of several terms, whose keys are as many."""

    def __init__(self, terms: Sequence[Term], count: int, device: torch.device) -> None:
        self.q = _Rows([term.q for term in terms], device, count)
        self.k = [_Rows([term.k[part] for term in terms], device, count) for part in range(len(terms[0].k))]
        self.v = [_Rows([term.v[part] for term in terms], device, count) for part in range(len(terms[0].v))]
        self.within = terms[0].within
        self.values = [term.values for term in terms]
        self.is_mixed = any(values is not None for values in self.values)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Projections:
        k = _joined([rows(k) for rows in self.k])
        v = self.mixed(v) if self.is_mixed else _joined([rows(v) for rows in self.v])
        if self.within is not None:
            k, v = k[:, :, self.within], v[:, :, self.within]
        return self.q(q), k, v

    def mixed(self, v: Tensor) -> Tensor:
        """The values of each term, those that are mixed multiplied; only A's are, whose keys are one row's."""
        taken = (v[row] for row in self.v[0].rows)
        return torch.stack([x if w is None else _mixed(w.to(x), x) for w, x in zip(self.values, taken, strict=True)])


def readable(rows: Sequence[Sequence[Term]], site: Site, device: torch.device) -> Hook:
    """The same layer with its map built, for those who read it; the map they see is the one that is used."""
    single = [terms[0] if len(terms) == 1 else Term(i, (i,), (i,)) for i, terms in enumerate(rows)]
    mixed = {i: terms for i, terms in enumerate(rows) if len(terms) > 1}
    every = [term for terms in rows for term in terms]
    parts = [term for term in every if term.where is not None or term.within is not None or len(term.k) > 1]
    taken = {term.q for i, terms in mixed.items() for term in terms if term.q != i}
    if parts or any(single[i].key != Term(i, (i,), (i,)).key or i in mixed for i in taken):
        raise ValueError(f"the map at {site} is read, but what is injected there by parts leaves no one map to read")
    q_rows, k_rows, v_rows = (
        _Rows(list(chosen), device)
        for chosen in ([t.q for t in single], [t.k[0] for t in single], [t.v[0] for t in single])
    )

    def gather(q: Tensor, k: Tensor, v: Tensor) -> Projections:
        return q_rows(q), k_rows(k), v_rows(v)

    def edit(maps: Tensor) -> Tensor:
        edited = maps.clone()
        for i, terms in mixed.items():
            edited[i] = sum(_mixed_map(maps[term.q], term.values) for term in terms)
        return edited

    return Hook(qkv=gather, map=edit if mixed else None)


def _shared_out(terms: Sequence[Term], share: Tensor) -> list[Term]:
    return [replace(term, where=share if term.where is None else term.where * share) for term in terms]


def _share(heads: Tensor, where: Tensor | None) -> Tensor:
    return heads if where is None else heads * where.to(heads)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=2)


def _mixed(values: Tensor, v: Tensor) -> Tensor:
    """Values (h m d) mixed by a matrix (m m), or each taken by its share (m,)."""
    if values.ndim == 1:
        return values[:, None] * v
    heads, places, _ = v.shape  # one product for all heads, which lie side by side
    return (values @ v.transpose(0, 1).reshape(places, -1)).unflatten(1, (heads, -1)).transpose(0, 1)


def _mixed_map(probabilities: Tensor, values: Tensor | None) -> Tensor:
    """The map (h n m) whose product with the values is the same as that of this one with the mixed values."""
    if values is None:
        return probabilities
    values = values.to(probabilities)
    return probabilities @ values if values.ndim == 2 else probabilities * values


class _Rows:
    """A gather of rows, which costs nothing where they lie at even distances: then it is a view."""

    def __init__(self, rows: Sequence[int], device: torch.device, count: int | None = None) -> None:
        self.rows = tuple(rows)
        self.in_place = list(rows) == list(range(len(rows) if count is None else count))
        self.index = torch.tensor(list(rows), device=device)
        distances = {after - before for before, after in pairwise(rows)} or {1}
        even = len(distances) == 1 and min(distances) > 0
        self.even = slice(rows[0], rows[-1] + 1, min(distances)) if even else None

    def __call__(self, x: Tensor) -> Tensor:
        if self.in_place:
            return x
        return x.index_select(0, self.index) if self.even is None else x[self.even]
