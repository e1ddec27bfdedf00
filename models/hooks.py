"""Where attention can be watched or changed, and how.

An attention layer is three equations with a gap after each: project to q, k, v; build the map softmax(q k^T / sqrt d);
multiply the values. A `Hook` fills gaps, a `Site` says at which layer, and a plain dict from one to the other is handed
to the U-Net for one call. Nothing is stored on a module, so nothing leaks into the next call.

In Photoswap (arXiv:2305.18286, section 3.2) the map of a self-attention layer is M and its output phi (Eq. 2), the map
of a cross-attention layer A and its output psi (Eq. 3); `quantities` makes tables under those letters.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from models.config import LEVELS

Edit = Callable[[Tensor], Tensor]
Projections = tuple[Tensor, Tensor, Tensor]


class Site(NamedTuple):
    """The address of one attention layer of the U-Net; str(site) reads like "up.1.0.self".

    stage: "down", "mid" or "up". block: counted in execution order within the stage, whether it holds attention or not;
    up.0 is the coarsest. layer: counted in execution order within the block. kind: "self" or "cross".
    """

    stage: Literal["down", "mid", "up"]
    block: int
    layer: int
    kind: Literal["self", "cross"]

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @property
    def scale(self) -> int:
        """How many times smaller than the latents each side is here: 1, 2, 4 or 8."""
        level = {"down": self.block, "mid": LEVELS - 1, "up": LEVELS - 1 - self.block}[self.stage]
        return 2**level


@dataclass(frozen=True)
class Hook:
    """What to do at one site: each slot is given what the layer computed and returns what it goes on with.

    qkv: queries (b h n d), keys and values (b h m d); attention stays fused. map: probabilities (b h n m) in float32 or
    wider; building them costs their memory, so with None they are never built. output: (b n c), heads joined, before
    the output projection. A slot that returns None or another shape is refused with a ValueError.
    """

    qkv: Callable[[Tensor, Tensor, Tensor], Projections] = lambda q, k, v: (q, k, v)
    map: Edit | None = None
    output: Edit = lambda out: out

    def then(self, second: "Hook") -> "Hook":
        """This hook first, then `second` on what it returned, slot by slot."""
        return Hook(
            qkv=lambda q, k, v: second.qkv(*self.qkv(q, k, v)),
            map=_chain(self.map, second.map) if self.map and second.map else self.map or second.map,
            output=_chain(self.output, second.output),
        )

    def guarded(self, site: Site) -> "Hook":
        """The same hook with every answer checked; errors name the site, the slot and both shapes."""

        def qkv(q: Tensor, k: Tensor, v: Tensor) -> Projections:
            answer = self.qkv(q, k, v)
            if not isinstance(answer, tuple | list) or len(answer) != 3:
                raise ValueError(
                    f"hook at {site}, slot qkv: returned {_describe(answer)}; wanted three tensors, "
                    f"{_describe(q)}, {_describe(k)} and {_describe(v)}"
                )
            for given, got in zip((q, k, v), answer, strict=True):
                _check(site, "qkv", given, got)
            return (answer[0], answer[1], answer[2])

        return Hook(qkv, self.map and _guard(site, "map", self.map), _guard(site, "output", self.output))


Hooks = Mapping[Site, Hook]
NO_HOOK = Hook()
NO_HOOKS: Hooks = {}


def reading(fn: Callable[[Tensor], Any]) -> Edit:
    """An edit that shows the tensor to `fn` and hands it on unchanged, whatever `fn` returns."""

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
) -> dict[Site, Hook]:
    """A table of hooks under the letters of the Photoswap paper (arXiv:2305.18286, Eqs. 2 and 3).

    Each of M (b h n n), A (b h n 77), phi and psi (b n c) is None or an edit: given the quantity, it returns what takes
    its place, and `reading(fn)` returns it as it was. M and phi go to the self sites among `sites`, A and psi to the
    cross sites. Example: quantities(unet.sites, A=reading(maps.append), phi=lambda out: out[[0, 0]]).
    """
    slots = {"self": (M, phi), "cross": (A, psi)}
    table = {}
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


def look_up(hooks: Hooks, site: Site) -> Hook:
    """The hook for a site, its answers checked, or NO_HOOK."""
    hook = hooks.get(site)
    return NO_HOOK if hook is None else hook.guarded(site)


def check_addresses(hooks: Hooks, sites: tuple[Site, ...]) -> None:
    """Raise ValueError if a hook has an address that is not among `sites`, listing those that are."""
    unknown = [key for key in hooks if key not in sites]
    if unknown:
        names = ", ".join(str(key) if isinstance(key, Site) else repr(key) for key in unknown)
        raise ValueError(
            f"no attention at {names}; hooks are addressed by a Site, and this U-Net has {len(sites)}: "
            f"{', '.join(map(str, sites))}"
        )


def _chain(first: Edit, second: Edit) -> Edit:
    return lambda tensor: second(first(tensor))


def _guard(site: Site, slot: str, edit: Edit) -> Edit:
    return lambda tensor: _check(site, slot, tensor, edit(tensor))


def _check(site: Site, slot: str, given: Tensor, got: Any) -> Tensor:
    if not isinstance(got, Tensor) or got.shape != given.shape:
        advice = "a hook that only looks is wrapped: reading(fn)" if got is None else "return the shape that came in"
        raise ValueError(f"hook at {site}, slot {slot}: returned {_describe(got)}; wanted {_describe(given)}: {advice}")
    return got


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
