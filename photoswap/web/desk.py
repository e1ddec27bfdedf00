"""One job at a time: a line of jobs, one worker, and what each job tells while it waits and works.

A model fills the memory and a job fills the processors, so a second one would only make both slower. Jobs wait their
turn, are told whom they wait for, and can be stopped while they wait or between two steps.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

MOST_WAITING = 8  # jobs in the line; whoever comes later is asked to try again
PULSE = 0.25  # seconds between two looks at the line


class StoppedError(KeyboardInterrupt):
    """Somebody pressed Stop. Learning takes it for Ctrl-C, and leaves a checkpoint to go on from."""


@dataclass(frozen=True)
class News:
    """What a job says of itself: a sentence, how much is done (0..1, None while it waits), and a picture, if any."""

    text: str
    share: float | None = None
    picture: Any = None


Work: TypeAlias = Callable[["Job"], Any]


class Job:
    """One piece of work in the line. name: what others in the line are told it is."""

    def __init__(self, name: str, work: Work) -> None:
        self.name, self.work = name, work
        self.news: queue.Queue[News] = queue.Queue()
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._stopped = threading.Event()

    def tell(self, text: str, share: float | None = 0.0, picture: Any = None) -> None:
        """Say how far it is. Raises StoppedError once somebody has asked it to stop."""
        self.check()
        self.news.put(News(text, share, picture))

    def check(self) -> None:
        """Raise StoppedError once somebody has asked it to stop."""
        if self._stopped.is_set():
            raise StoppedError(f"{self.name} was stopped")

    def stop(self) -> None:
        """Ask it to stop: at once where it still waits, else after the step that it is in."""
        self._stopped.set()

    def run(self) -> None:
        """Do the work, keeping its answer or its error."""
        try:
            self.check()
            self.result = self.work(self)
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def latest(self) -> News | None:
        """The last it has told since it was asked last, with the last picture among it; None for nothing new."""
        found: News | None = None
        while True:
            try:
                told = self.news.get_nowait()
            except queue.Empty:
                return found
            found = replace(told, picture=told.picture or (found and found.picture))


class Desk:
    """The line of jobs, and the worker who does them one after another."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self.most_waiting = most_waiting
        self._line: list[Job] = []  # the first is being done
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None

    def submit(self, name: str, work: Work) -> Job:
        """Put a job into the line. Raises ValueError when the line is full."""
        job = Job(name, work)
        with self._changed:
            if len(self._line) > self.most_waiting:
                raise ValueError(f"{len(self._line)} jobs are waiting already; try again in a while")
            self._line.append(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="photoswap desk", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return job

    def follow(self, job: Job) -> Iterator[News]:
        """What the job tells, until it has ended; whoever leaves early stops it. Raises the job's own error."""
        said: News | None = None
        try:
            while True:
                ended = job.ended.wait(PULSE)
                news = job.latest() or self._waiting(job)
                if news is not None and news != said:
                    said = news
                    yield news
                if ended:
                    break
        finally:
            job.stop()
        if job.error is not None:
            raise job.error

    def _waiting(self, job: Job) -> News | None:
        """What to say to somebody whose job is not begun."""
        with self._changed:
            ahead = self._line[: self._line.index(job)] if job in self._line else []
        if not ahead:
            return None
        others = "" if len(ahead) == 1 else f", and {len(ahead) - 1} more before yours"
        return News(f"One job at a time: waiting for another to end ({ahead[0].name}{others}).")

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._line:
                    self._changed.wait()
                job = self._line[0]
            job.run()
            with self._changed:
                self._line.remove(job)
