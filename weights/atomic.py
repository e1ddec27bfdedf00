"""Files and folders that are either complete or not there: made in a hidden folder beside their place, then renamed.

The hidden folder holds a lock for as long as there is something in it and its process lives. Whoever writes beside it
later, and finds the lock free, removes what a killed process left there; what a running one is writing stays. At any
moment a kill leaves the folder with its lock, or empty, and an empty one is always free to go.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from weights.lock import Held, locked

HIDDEN = ".photoswap"  # how the hidden folders end
LOCK = "lock"
STRANGE = 60.0  # seconds for which a folder with something in it but no lock, which we never leave, is not touched


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path of a file to be written, with the same suffix; on success that file replaces `path`.

    When the body raises, what it wrote goes, folders made for it go, and what stood at `path` stays as it was.
    Raises OSError when the folder cannot be written to or the disk is full, also where safetensors does the writing.
    """
    path = Path(path)
    with _workplace(path) as home:
        temporary = home / f"partial{path.suffix}"
        try:
            yield temporary
            flush(temporary)
        except SafetensorError as error:
            if code := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
            raise
        except OSError as error:
            if error.filename == str(temporary):
                error.filename = str(path)
            raise
        os.replace(temporary, path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder; on success it becomes `path`, last of all, and when the body raises it goes.

    Raises ValueError when something else than an empty folder is at `path`.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is there already; name a new folder")
    with _workplace(path) as home:
        folder = home / "partial"
        folder.mkdir()
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                flush(file)
        if path.exists():
            path.rmdir()
        os.replace(folder, path)


def flush(path: Path) -> None:
    """Bring the file onto the disk, before its name points to it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path` for the time of the body, locked; folders made for it go if the body raises."""
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        clear(path.parent)
        with ExitStack() as stack:
            yield _locked_folder(path, stack)
    except BaseException:
        for folder in made:
            with suppress(OSError):  # something else has been put there since: not ours to remove
                folder.rmdir()
        raise


def _locked_folder(path: Path, stack: ExitStack) -> Path:
    while True:
        home = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=HIDDEN))
        stack.callback(_remove_empty, home)
        try:
            stack.enter_context(locked(home / LOCK, without="go on"))
        except (Held, FileNotFoundError):  # another process took it for left behind, before the lock was on
            continue
        stack.callback(_empty, home)
        return home


def _empty(home: Path) -> None:
    """Remove all but the lock, which its holder removes next."""
    for inside in home.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside, ignore_errors=True)
        elif inside.name != LOCK:
            with suppress(OSError):
                inside.unlink()


def _remove_empty(home: Path) -> None:
    with suppress(OSError):
        home.rmdir()


def clear(*folders: Path) -> None:
    """Remove the hidden folders in these folders whose processes are gone; whatever cannot be told or removed stays."""
    for home in (home for folder in folders for home in folder.glob(f".*{HIDDEN}")):
        with suppress(OSError, Held):
            if home.is_symlink():
                continue
            if (home / LOCK).exists():
                with locked(home / LOCK, without="raise"):
                    _empty(home)
            elif time.time() - home.stat().st_mtime > STRANGE:
                shutil.rmtree(home, ignore_errors=True)
            _remove_empty(home)  # also one about to be locked: its maker makes another


def check_space(folder: Path, size: int) -> None:
    """Raise ValueError, before any work is done, unless so many bytes fit where the folder is or will be."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise ValueError(f"{existing} has {free / 1e9:.2f} GB free and {size / 1e9:.2f} GB are needed; make room there")
