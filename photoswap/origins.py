"""Several sources in one run: a method speaks of its "source", and each target says which picture that is.

A target's origins tell the name that its method uses from the name in the run. Here what a method sees of a run, and
what it says in return, is put from one into the other; where the names are the same, nothing is done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from models.hooks import Hooks, Site
from samplers import Step

from .injections import Row
from .method import Follower, Latents, Run, Update

Names = Mapping[str, str]  # in the run, by what a method calls them


def seen_by(run: Run, target: str, generator: torch.Generator | None) -> Run:
    """The run as the method of one target sees it, which draws by itself."""
    names = run.pictures[target].origins
    renamed = {own: run.pictures[name] for own, name in names.items()}
    return replace(run, pictures={**run.pictures, **renamed}, generator=generator)


def seen_latents(latents: Latents, names: Names) -> Latents:
    """Latents under a method's names too."""
    return {**latents, **{own: latents[name] for own, name in names.items() if name in latents}}


def in_run(latents: Latents, names: Names) -> Latents:
    """What a method says of its pictures, under their names in the run."""
    return {names.get(name, name): z for name, z in latents.items()}


@dataclass(frozen=True, eq=False)
class Renamed(Follower):
    """A follower whose pictures go by other names in the run."""

    follower: Follower
    names: Names

    def rows(self) -> list[Row]:
        return [Row(row.half, self.names.get(row.picture, row.picture)) for row in self.follower.rows()]

    def hooks(self, rows: Sequence[Row], sites: Sequence[Site]) -> Hooks:
        own = {name: own for own, name in self.names.items()}
        return self.follower.hooks([Row(row.half, own.get(row.picture, row.picture)) for row in rows], sites)

    def after(self, latents: Latents, step: Step) -> Latents:
        said = self.follower.after(seen_latents(latents, self.names), step)
        return in_run({name: z for name, z in said.items() if name not in self.names.values()}, self.names)


def renamed_update(update: Update, names: Names) -> Update:
    """An update whose pictures go by other names in the run."""
    return lambda latents, eps, step: in_run(
        update(seen_latents(latents, names), seen_latents(eps, names), step), names
    )
