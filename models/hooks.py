"""Where the U-Net can be watched or changed, and how.

An attention layer is three equations with a gap after each: project to q, k, v; build the map softmax(q k^T / sqrt d);
multiply the values. A residual block has one gap more, before its shortcut is added. A `Hook` fills gaps, a `Site` says
where, and a plain dict from one to the other is handed to the U-Net for one call. Nothing is stored on a module, so
nothing leaks into the next call. `HookTable` is such a dict already checked, for those who call with it many times.

In Photoswap (arXiv:2305.18286, section 3.2) the map of a self-attention layer is M and its output phi (Eq. 2), the map
of a cross-attention layer A and its output psi (Eq. 3); `quantities` makes tables under those letters. The features of
a residual block are those that Plug-and-Play injects (arXiv:2211.12572, section 4.1).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from torch import Tensor

from models.config import LEVELS

Edit = Callable[[Tensor], Tensor]
Projections = tuple[Tensor, Tensor, Tensor]
Attended = Projections | list[Projections]  # by one call, or by one each
ProjectionsEdit = Callable[[Tensor, Tensor, Tensor], Attended]


class Site(NamedTuple):
    """The address of one attention layer or residual block of the U-Net; str(site) reads like "up.1.0.self".

    stage: "down", "mid" or "up". block: counted in execution order within the stage, whether it holds attention or not;
    up.0 is the coarsest. layer: counted in execution order within the block, attention layers and residual blocks each
    by themselves. kind: "self" or "cross" attention, or the "features" of a residual block.
    """

    stage: Literal["down", "mid", "up"]
    block: int
    layer: int
    kind: Literal["self", "cross", "features"]

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @property
    def scale(self) -> int:
        """How many times smaller than the latents each side is here: 1, 2, 4 or 8."""
        level = {"down": self.block, "mid": LEVELS - 1, "up": LEVELS - 1 - self.block}[self.stage]
        return 2**level


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _same_projections(q: Tensor, k: Tensor, v: Tensor) -> Projections:
    return q, k, v


@dataclass(frozen=True)
class Hook:
    """What to do at one site: each slot is given what the layer computed and returns what it goes on with.

    qkv: queries (b h n d), keys and values (b h m d); attention stays fused. q keeps its shape; k and v may come back
    with another m, the same for both: attention over source and target together, or over some places of a reference.
    map: probabilities (b h n m), with the m that qkv left, in float32 or wider; building them costs their memory, so
    with None they are never built. output: (b n c), heads joined, before the output projection. At a "features" site
    only `output`: (b c h w), what the second convolution gives, before the shortcut is added.

    Where `output` gives rows what others computed, `qkv` may leave those rows out of q, k and v alike, and their
    attention is not computed: Hook(qkv=lambda q, k, v: (q[:1], k[:1], v[:1]), output=lambda out: out[[0, 0]]).

    `qkv` may also return a list of such triples, each with an m of its own: each is attended by itself, and `output`
    makes the layer's rows of all of theirs, laid one after another. Then there is no one map, and `map` stays None.

    A slot that returns None, another shape, dtype or device is refused with a ValueError naming the site and the slot.
    """

    qkv: ProjectionsEdit = _same_projections
    map: Edit | None = None
    output: Edit = _same

    def then(self, second: "Hook") -> "Hook":
        """This hook first, then `second` on what it returned, slot by slot."""
        return Hook(
            qkv=_chain_projections(self.qkv, second.qkv),
            map=_chain(self.map, second.map) if self.map and second.map else self.map or second.map,
            output=_chain(self.output, second.output),
        )

    def checked(self, site: Site) -> "Hook":
        """The same hook for this site with every answer checked; errors name the site, the slot and both sides.

        Raises ValueError for a slot that is no function, or that a residual block does not have.
        """
        for slot in (field.name for field in fields(self)):
            edit = getattr(self, slot)
            if not callable(edit) and not (slot == "map" and edit is None):
                raise ValueError(f"hook at {site}, slot {slot}: {_describe(edit)} is no function; leave the slot out")
        if site.kind == "features" and (self.qkv is not _same_projections or self.map is not None):
            raise ValueError(f"hook at {site}: a residual block has no attention; it takes Hook(output=...) alone")
        attends_to_all, drops = self.qkv is _same_projections, self.output is not _same
        return Hook(
            qkv=self.qkv
            if attends_to_all
            else _checked_projections(site, self.qkv, (0,) if drops else (), self.map is None),
            map=self.map and _checked(site, "map", self.map),
            output=_checked(site, "output", self.output, () if attends_to_all else (0,)) if drops else self.output,
        )


Hooks = Mapping[Site, Hook]
NO_HOOK = Hook()
NO_HOOKS: Hooks = {}


class HookTable(Mapping[Site, Hook]):
    """Hooks whose addresses and slots were checked once, for any number of calls of U-Nets with these sites.

    A mapping of the hooks as they were given; `checked` holds what the U-Net runs, where every answer is checked too.
    Raises ValueError for an address that is not among `sites`, listing those that are, and for what is no `Hook`.
    """

    def __init__(self, hooks: Hooks, sites: tuple[Site, ...]) -> None:
        check_addresses(hooks, sites)
        for site, hook in hooks.items():
            if not isinstance(hook, Hook):
                raise ValueError(f"at {site} stands {_describe(hook)}; wanted a Hook, such as Hook(output=...)")
        self.sites = sites
        self.hooks = dict(hooks)
        self.checked = {site: hook.checked(site) for site, hook in hooks.items()}

    def __getitem__(self, site: Site) -> Hook:
        return self.hooks[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.hooks)

    def __len__(self) -> int:
        return len(self.hooks)


def reading(fn: Callable[[Tensor], Any]) -> Edit:
    """An edit that shows the tensor to `fn` and returns it unchanged, whatever `fn` returns."""

    def read(tensor: Tensor) -> Tensor:
        fn(tensor)
        return tensor

    return read


def quantities(
    sites: Iterable[Site],
    *,
    M: Edit | None = None,
    A: Edit | None = None,
    phi: Edit | None = None,
    psi: Edit | None = None,
    features: Edit | None = None,
) -> dict[Site, Hook]:
    """A table of hooks under the letters of the Photoswap paper (arXiv:2305.18286, Eqs. 2 and 3).

    Each of M (b h n n), A (b h n 77), phi and psi (b n c) and features (b c h w) is None or an edit: given the
    quantity, it returns what takes its place, and `reading(fn)` returns it as it was. M and phi go to the self sites
    among `sites`, A and psi to the cross sites, features to the residual blocks. Example:
    quantities(unet.sites, A=reading(maps.append), phi=lambda out: out[[0, 0]]). Raises ValueError for features where
    no residual block is among the sites, since `unet.sites` has none.
    """
    slots = {"self": (M, phi), "cross": (A, psi), "features": (None, features)}
    table = {}
    sites = tuple(sites)
    if features is not None and all(site.kind != "features" for site in sites):
        raise ValueError("features are given, and no residual block is among the sites: add unet.feature_sites")
    for site in sites:
        edit_map, edit_output = slots[site.kind]
        if edit_map is not None or edit_output is not None:
            table[site] = Hook(map=edit_map) if edit_output is None else Hook(map=edit_map, output=edit_output)
    return table


def merge(first: Hooks, second: Hooks) -> dict[Site, Hook]:
    """One table doing what both do; where they meet at a site, `first` acts before `second`."""
    both = dict(first)
    for site, hook in second.items():
        both[site] = both[site].then(hook) if site in both else hook
    return both


def check_addresses(hooks: Hooks, sites: tuple[Site, ...]) -> None:
    """Raise ValueError if a hook has an address that is not among `sites`, listing those of its kind that are."""
    unknown = [key for key in hooks if key not in sites]
    complaints = []
    for what, features in (("attention", False), ("residual block", True)):
        names = [str(k) if isinstance(k, Site) else repr(k) for k in unknown if _of_features(k) == features]
        known = [str(site) for site in sites if _of_features(site) == features]
        if names:
            complaints.append(
                f"no {what} at {', '.join(names)}; hooks are addressed by a Site, and this U-Net has {len(known)}: "
                f"{', '.join(known)}"
            )
    if complaints:
        raise ValueError("; ".join(complaints))


def check_rows(site: Site, x: Tensor, out: Tensor) -> Tensor:
    """The layer's output for x, if no row is missing that a hook left out of the attention."""
    if out.shape[0] != x.shape[0]:
        raise ValueError(
            f"hook at {site}, slot output: {out.shape[0]} rows came back; wanted {x.shape[0]}: "
            "bring back the rows that slot qkv left out"
        )
    return out


def _of_features(key: Any) -> bool:
    return isinstance(key, Site) and key.kind == "features"


def _chain(first: Edit, second: Edit) -> Edit:
    if first is _same or second is _same:
        return second if first is _same else first
    return lambda tensor: second(first(tensor))


def _chain_projections(first: ProjectionsEdit, second: ProjectionsEdit) -> ProjectionsEdit:
    if first is _same_projections or second is _same_projections:
        return second if first is _same_projections else first

    def both(q: Tensor, k: Tensor, v: Tensor) -> Attended:
        answer = first(q, k, v)
        if isinstance(answer, list):
            raise ValueError(
                "two hooks at one site both fill the slot qkv, and the first returns a list: leave one out"
            )
        return second(*answer)

    return both


def _checked(site: Site, slot: str, edit: Edit, free: tuple[int, ...] = ()) -> Edit:
    return lambda tensor: _check(site, slot, tensor, edit(tensor), free)


def _checked_projections(site: Site, edit: ProjectionsEdit, free: tuple[int, ...], may_part: bool) -> ProjectionsEdit:
    def qkv(q: Tensor, k: Tensor, v: Tensor) -> Attended:
        answer: Any = edit(q, k, v)
        if may_part and 0 in free and isinstance(answer, list) and not any(isinstance(part, Tensor) for part in answer):
            return [triple(q, k, v, part) for part in answer]
        return triple(q, k, v, answer)

    def triple(q: Tensor, k: Tensor, v: Tensor, answer: Any) -> Projections:
        if not isinstance(answer, tuple | list) or len(answer) != 3:
            raise ValueError(
                f"hook at {site}, slot qkv: returned {_describe(answer)}; wanted three tensors, "
                f"{_describe(q)}, {_describe(k)} and {_describe(v)}"
            )
        new_q, new_k, new_v = answer
        _check(site, "qkv", q, new_q, free)
        _check(site, "qkv", k, new_k, (*free, 2))
        _check(site, "qkv", v, new_v, (*free, 2))
        if not new_q.shape[0] == new_k.shape[0] == new_v.shape[0] or new_k.shape[2] != new_v.shape[2]:
            raise ValueError(
                f"hook at {site}, slot qkv: returned queries {_describe(new_q)}, keys {_describe(new_k)} and values "
                f"{_describe(new_v)}; wanted as many values as keys, and the same rows in all: change them together"
            )
        return new_q, new_k, new_v

    return qkv


def _check(site: Site, slot: str, given: Tensor, got: Any, free: tuple[int, ...] = ()) -> Tensor:
    """The answer, if it can stand where `given` stood. free: dimensions that may come back longer or shorter."""
    if not isinstance(got, Tensor):
        advice = "a hook that only looks is wrapped: reading(fn)" if got is None else "return a tensor"
        raise ValueError(f"hook at {site}, slot {slot}: returned {_describe(got)}; wanted {_describe(given)}: {advice}")
    fixed = [i for i in range(given.dim()) if i not in free]
    if got.dim() != given.dim() or got.numel() == 0 or any(got.shape[i] != given.shape[i] for i in fixed):
        raise ValueError(
            f"hook at {site}, slot {slot}: returned {_describe(got)}; wanted {_describe(given)}: "
            f"return the shape that came in{'' if 2 not in free else '; only m, of keys and values both, may differ'}"
        )
    if got.dtype != given.dtype or got.device != given.device:
        raise ValueError(
            f"hook at {site}, slot {slot}: returned {got.dtype} on {got.device}; wanted {given.dtype} on "
            f"{given.device}: end with .to(the tensor that came in)"
        )
    return got


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
