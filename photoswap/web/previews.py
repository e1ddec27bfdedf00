"""What a job tells while it works: how far it is, how long it will take, and what the picture will look like."""

import time
from typing import TYPE_CHECKING

from photoswap.drawing import decoded
from photoswap.injections import TARGET

from .desk import Job

if TYPE_CHECKING:
    from torch import Tensor

    from models.stable_diffusion import StableDiffusion
    from photoswap.side_by_side import Moment

RARELY = 0.25  # seconds between two previews at least, and
COSTLIER = 5  # so many times what one costs, so that looking on does not slow the work by more than a fifth
LOSSES = 20  # losses


class Progress:
    """Tells a job's steps: "Learning: step 120 of 350, about 40 s left". what: which work. steps: of how many."""

    def __init__(self, job: Job, what: str, steps: int) -> None:
        self.job, self.what, self.steps = job, what, steps
        self._begun: tuple[float, int] | None = None
        self._losses: list[float] = []

    def step(self, done: int, more: str = "", picture: object = None) -> None:
        """Say that so many steps are done. Raises StoppedError once the job is to stop."""
        now = time.perf_counter()
        if self._begun is None:
            self._begun = now, done
        since, first = self._begun
        left = (now - since) / (done - first) * (self.steps - done) if done > first else None
        told = f", about {_spoken(left)} left" if left and left > 2 else ""
        self.job.tell(f"{self.what}: step {done} of {self.steps}{told}{more}", done / self.steps, picture)

    def loss(self, done: int, loss: float) -> None:
        """The same while learning."""
        self._losses = [*self._losses[1 - LOSSES :], loss]
        self.step(done, f", loss {sum(self._losses) / len(self._losses):.3f}")

    def named(self, name: str, done: int, steps: int) -> None:
        """The same of work that has several parts, each counted by itself."""
        if done == 1:
            self._begun, self.steps = None, steps
            self.what = {"null-text": "Fitting the null-text contexts"}.get(name, self.what)
        self.step(done)


class Previews:
    """Told of each moment of a swap, shows now and then where the target is heading: the x0 that its eps implies."""

    def __init__(self, model: "StableDiffusion", progress: Progress, target: str = TARGET) -> None:
        self.model, self.progress, self.target = model, progress, target
        self.done, self._next = 0, 0.0

    def __call__(self, moment: "Moment") -> None:
        self.done += 1
        start, picture = time.perf_counter(), None
        if start >= self._next:
            picture = decoded(self.model, guess(moment, self.target))
            took = time.perf_counter() - start
            self._next = start + max(RARELY, COSTLIER * took)
        self.progress.step(self.done, picture=picture)


def guess(moment: "Moment", name: str) -> "Tensor":
    """The clean latents that a picture's latents and noise estimate point to, (1 4 h w): DDIM, eq. 12's "predicted x0".

    A picture without an estimate of its own, or moved by another rule than DDIM's, is shown as it stands.
    """
    alpha = moment.step.alpha_to
    if name not in moment.eps or alpha <= 0:
        return moment.latents[name]
    return (moment.latents[name] - (1 - alpha) ** 0.5 * moment.eps[name]) / alpha**0.5


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
