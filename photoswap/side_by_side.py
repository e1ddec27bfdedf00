"""Denoise several pictures side by side, each taking from the others what a method says: Photoswap, Algorithm 1.

The loop is one for every method. It computes only the rows that somebody needs: those of the pictures whose latents
latents are not known beforehand, those that they take from, and those that a follower reads. Targets that are alike,
into which the same has been injected so far, have one estimate between them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from models.hooks import Hooks, merge
from models.unet import UNet
from samplers import Schedule, Step, guide, move

from .edits import hook_table
from .injections import BOTH, SOURCE, TARGET, Injection, Row, rows_needed
from .method import Follower, Latents, Method, Run, Update
from .origins import Renamed, in_run, renamed_update, seen_by
from .pictures import Picture

KEPT_BESIDE = 0.04  # of what plain sampling holds: what may be kept beside it
KEPT_INSTEAD = 0.9  # of what rows left out would hold; kernels want memory of their own beside


@dataclass(frozen=True, eq=False)
class Moment:
    """What stands after one step: every picture's latents, the guided noise estimates asked for, the rows computed."""

    step: Step
    latents: Latents
    eps: Latents
    rows: tuple[Row, ...]


@torch.no_grad()
def side_by_side(
    unet: UNet,
    schedule: Schedule,
    pictures: Mapping[str, Picture],
    method: Method | Mapping[str, Method],
    *,
    followers: Sequence[Follower] = (),
    generator: torch.Generator | Mapping[str, torch.Generator] | None = None,
    alike: Sequence[Sequence[str]] = (),
) -> Iterator[Moment]:
    """Run a method, or one for each of several targets by name, and yield after every step; the last has the result.

    pictures: by name; a single method moves the one called "target". Stop whenever you like; previews and progress are
    what you do between two steps. followers: beside the method's own, after them. generator: of methods that draw, one
    for all or one for each target by name. Of several sources, a target's `Picture.origins` says which is its own.
    alike: groups of targets that differ in nothing but what is injected into them, and for how long; up to the step
    where that parts them the first of a group is computed for all, so that runs with a common beginning are a tree.
    Raises ValueError, before the first step, for pictures and methods that do not fit each other.
    """
    methods = {"target": method} if isinstance(method, Method) else method
    run = Run(unet, schedule, schedule.sampling(_steps(methods, pictures)), pictures)
    draws = generator if isinstance(generator, Mapping) else dict.fromkeys(methods, generator)
    seen = {name: seen_by(run, name, draws.get(name)) for name in methods}
    followers = [*(follower for name, m in methods.items() for follower in _followers(m, seen[name], name)), *followers]
    updates = [ddim(run), *(update for name, m in methods.items() if (update := _update(m, seen[name], name)))]
    latents, first = _start(run, methods, seen)
    for phase in phases(run, methods, followers, first, alike):
        call = _Call(run, phase, followers)
        for step in phase.steps:
            outputs = call(latents, step)
            eps = {name: _guided(run, name, outputs, latents[name], step) for name in phase.moving}
            eps |= {name: eps[leader] for name, leader in phase.leaders.items()}
            moved = [update(latents, eps, step) for update in updates]
            latents = {name: z for some in moved for name, z in some.items()}
            for follower in followers:
                latents = {**latents, **follower.after(latents, step)}
            yield Moment(step, latents, eps, phase.rows)


def ddim(run: Run) -> Update:
    """Each picture whose latents are known stands there, every other moves along its guided estimate (DDIM, eq. 12)."""

    def update(latents: Latents, eps: Latents, step: Step) -> Latents:
        known = {name: picture.before(step.index + 1) for name, picture in run.pictures.items() if picture.is_known}
        return known | {name: move(latents[name], eps[name], step.alpha_from, step.alpha_to) for name in eps}

    return update


@dataclass(frozen=True)
class Phase:
    """Steps in a row in which the same is injected in the same rows, and the pictures whose eps they give.

    leaders: targets that have no rows of their own, each with the one that is computed for it.
    """

    steps: tuple[Step, ...]
    injections: tuple[Injection, ...]
    rows: tuple[Row, ...]
    moving: tuple[str, ...]
    leaders: Mapping[str, str] = field(default_factory=dict)


def phases(
    run: Run,
    methods: Mapping[str, Method],
    followers: Sequence[Follower] = (),
    first: int = 0,
    alike: Sequence[Sequence[str]] = (),
) -> list[Phase]:
    """The run cut where what is injected, or the rows that somebody needs, changes."""
    pictures, driven = run.pictures, set(_driven(methods, run.pictures))
    order = [Row(half, name) for half in BOTH for name in pictures]
    cuts = []
    for step in run.steps[first:]:
        injected = _injected(run, methods, step)
        alike = parted(alike, injected)
        leaders = {name: group[0] for group in alike for name in group[1:]}
        moves = [name for name, picture in pictures.items() if name in driven or not picture.is_known]
        moving = tuple(name for name in moves if name not in leaders)
        injections = tuple(i for name, found in injected.items() if name not in leaders for i in found)
        own = {Row(half, name) for name in moving for half in pictures[name].halves(step.index)}
        read = {row for follower in followers for row in _led(follower, leaders).rows()}
        rows = rows_needed(own | read, injections, pictures)
        cuts.append((step, (injections, tuple(row for row in order if row in rows), moving, leaders)))
    return [Phase(tuple(step for step, _ in cut), *content) for content, cut in groupby(cuts, key=itemgetter(1))]


def parted(alike: Sequence[Sequence[str]], injected: Mapping[str, Sequence[Injection]]) -> list[list[str]]:
    """Groups of targets cut into those that take the same in this step. injected: into each."""
    groups: dict[tuple[int, tuple[Injection, ...]], list[str]] = {}
    for number, names in enumerate(alike):
        for name in names:
            plain = tuple(replace(i, into=TARGET) if i.into == name else i for i in injected[name])
            groups.setdefault((number, plain), []).append(name)
    return list(groups.values())


def _injected(run: Run, methods: Mapping[str, Method], step: Step) -> dict[str, list[Injection]]:
    """What each target takes in a step, and from whom, at the addresses there are."""
    sites, size = run.unet.all_sites, next(iter(run.pictures.values())).size
    every = {
        name: [i.aimed_at(name, run.pictures[name].origins).at(sites, size) for i in method.injections(step.index)]
        for name, method in methods.items()
    }
    return {name: [injection for injection in found if injection.addresses] for name, found in every.items()}


def _led(follower: Follower, leaders: Mapping[str, str]) -> Follower:
    """A follower that reads, in place of targets without rows of their own, those that are computed for them."""
    names = {row.picture: leaders[row.picture] for row in follower.rows() if row.picture in leaders}
    return Renamed(follower, names) if names else follower


class _Call:
    """The network called on the rows of a phase; what does not change within it is made once."""

    def __init__(self, run: Run, phase: Phase, followers: Sequence[Follower]) -> None:
        self.run, self.rows = run, phase.rows
        read: Hooks = {}
        for follower in followers:
            read = merge(read, _led(follower, phase.leaders).hooks(phase.rows, run.unet.sites))
        table = hook_table(phase.injections, phase.rows, run.pictures, read.keys())
        self.hooks = run.unet.prepare_hooks(merge(table, read))
        unconds = [run.pictures[row.picture].uncond for row in phase.rows if row.half == "uncond"]
        changing = any(uncond is not None and len(uncond) > 1 for uncond in unconds)
        room = _room(run, phase)
        self.prepared = None if changing else run.unet.prepare_context(self._context(phase.steps[0]), room)

    def __call__(self, latents: Latents, step: Step) -> dict[Row, Tensor]:
        """The network's output for each row, in the type of the latents."""
        batch = torch.cat([latents[row.picture] for row in self.rows])
        context = self._context(step) if self.prepared is None else self.prepared
        outputs = self.run.unet(batch.to(self.run.unet.conv_in.weight.dtype), step.t, context, self.hooks)
        return dict(zip(self.rows, outputs.to(batch.dtype).split(1), strict=True))

    def _context(self, step: Step) -> Tensor:
        return torch.cat([self.run.pictures[row.picture].context_at(row.half, step.index) for row in self.rows])


def _room(run: Run, phase: Phase) -> float:
    """How many elements may be kept over a phase so that it holds hardly more than plain sampling of the pictures.

    Rows that are not computed leave room for keys and values of the text, and a small share is given in any case.
    """
    size = next(iter(run.pictures.values())).size
    plain = sum(len(picture.halves(phase.steps[0].index)) for picture in run.pictures.values())
    return (KEPT_BESIDE * plain + KEPT_INSTEAD * (plain - len(phase.rows))) * run.unet.held(size)


def _guided(run: Run, name: str, outputs: Mapping[Row, Tensor], latents: Tensor, step: Step) -> Tensor:
    """The guided noise estimate of one picture."""
    cond = outputs[Row("cond", name)]
    output = guide(outputs.get(Row("uncond", name), cond), cond, run.pictures[name].guidance(step.index))
    return run.schedule.to_eps(output, latents, step)


def _steps(methods: Mapping[str, Method], pictures: Mapping[str, Picture]) -> int:
    """How many steps all methods take. Raises ValueError where they, or the pictures, do not agree."""
    counts = {method.steps for method in methods.values()}
    if len(counts) != 1:
        raise ValueError(f"the methods take {sorted(counts)} steps; want the same for all targets of a run")
    if missing := [name for name in methods if name not in pictures]:
        raise ValueError(f"there is a method for {', '.join(missing)}, but no such picture; there is {list(pictures)}")
    for name in methods:
        for own, origin in pictures[name].origins.items():
            if own in pictures or origin not in pictures:
                raise ValueError(
                    f"{name} means {origin} by {own}; want a picture of the run, by a name it does not have"
                )
    if driven := _driven(methods, pictures):
        shared = [pictures[name].origins.get(SOURCE, SOURCE) for name in methods]
        if any(shared.count(name) > 1 for name in driven):
            raise ValueError("a method that moves the source itself wants a source for each target")
    if len({picture.size for picture in pictures.values()}) != 1:
        raise ValueError(f"the pictures' latents are {[picture.size for picture in pictures.values()]}; want one size")
    steps = counts.pop()
    for name, picture in pictures.items():
        picture.check(name, steps)
    return steps


def _driven(methods: Mapping[str, Method], pictures: Mapping[str, Picture]) -> list[str]:
    """The sources that a method moves itself."""
    return [pictures[name].origins.get(SOURCE, SOURCE) for name, method in methods.items() if method.moves_source]


def _followers(method: Method, seen: Run, target: str) -> list[Follower]:
    names = seen.pictures[target].origins
    return [Renamed(follower, names) if names else follower for follower in method.followers(seen, target)]


def _update(method: Method, seen: Run, target: str) -> Update | None:
    update, names = method.update(seen, target), seen.pictures[target].origins
    return renamed_update(update, names) if update and names else update


def _start(run: Run, methods: Mapping[str, Method], seen: Mapping[str, Run]) -> tuple[dict[str, Tensor], int]:
    """All latents before the first step, and its index."""
    firsts = {method.first for method in methods.values()}
    if len(firsts) != 1:
        raise ValueError(f"the methods begin at steps {sorted(firsts)}; want the same for all targets of a run")
    first = firsts.pop()
    if run.steps[first].alpha_from == 0 and any(method.needs_signal for method in methods.values()):
        raise ValueError(
            "the model's first step has noise alone (zero terminal SNR), and this method wants some signal in every "
            "step: take another method"
        )
    given: dict[str, Tensor] = {}
    for target, method in methods.items():
        given |= in_run(method.start(seen[target], target), run.pictures[target].origins)
    for name, picture in run.pictures.items():
        if first > 0 and name not in given and not picture.is_known:
            raise ValueError(
                f"the run begins at step {first}, where the {name} is not known to stand: invert by direct"
            )
    return {name: picture.before(first) for name, picture in run.pictures.items()} | given, first
