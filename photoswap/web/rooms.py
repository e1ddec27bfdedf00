"""A folder for each browser tab, in which everything that it makes is kept: learnt, inverted, swapped, painted."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
MOST_ROOMS = 64  # tabs at once
MOST_NUMBERS = 100_000


class Folder:
    """A folder of one's own below `parent`, made when the first thing goes into it."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self._root: Path | None = None

    @property
    def root(self) -> Path:
        """The folder: session-1, or the first number that is free."""
        if self._root is None:
            self.parent.mkdir(parents=True, exist_ok=True)
            self._root = _made(self.parent, "session")
        return self._root

    def new(self, stem: str, suffix: str = "") -> Path:
        """A path in it for a new file: mask-1.png, or the first number that is free."""
        for number in range(1, MOST_NUMBERS):
            path = self.root / f"{_name(stem)}-{number}{suffix}"
            if not path.exists():
                return path
        raise ValueError(f"{self.root} is full of {stem}; remove some")

    def new_folder(self, stem: str) -> Path:
        """A new folder in it."""
        return _made(self.root, _name(stem))

    def holds(self, path: str | Path) -> bool:
        """Whether a file is in it, by its real place."""
        return self._root is not None and Path(path).resolve().is_relative_to(self._root.resolve())


class Rooms(Generic[T]):
    """What each open tab has, by the tab's name; made when it first asks. Raises ValueError for too many."""

    def __init__(self, make: Callable[[], T], most: int = MOST_ROOMS) -> None:
        self.make, self.most = make, most
        self._rooms: dict[str, T] = {}
        self._lock = threading.Lock()

    def of(self, tab: str) -> T:
        """The tab's own."""
        with self._lock:
            if tab not in self._rooms:
                if len(self._rooms) >= self.most:
                    raise ValueError(f"{self.most} tabs are open already; close one and reload this")
                self._rooms[tab] = self.make()
            return self._rooms[tab]

    def leave(self, tab: str) -> T | None:
        """Forget a tab that was closed; what it had, if it had anything. Its files stay."""
        with self._lock:
            return self._rooms.pop(tab, None)


def _made(parent: Path, stem: str) -> Path:
    for number in range(1, MOST_NUMBERS):
        try:
            (parent / f"{stem}-{number}").mkdir()
            return parent / f"{stem}-{number}"
        except FileExistsError:
            continue
    raise ValueError(f"{parent} is full of folders called {stem}; remove some")


def _name(text: str) -> str:
    """Letters, digits and dashes alone, so that no name leads elsewhere."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "file"
