"""Files and folders that are either whole or not there: written beside their place, then renamed into it."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder, with the same suffix; on success it replaces `path`.

    When the body raises, the temporary file goes, folders made for it go, and what stood at `path` stays as it was.
    Raises OSError when the folder cannot be written to or the disk is full, also where safetensors does the writing.
    """
    path = Path(path)
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # something else has been put there since: not ours to remove
                folder.rmdir()
        if isinstance(error, SafetensorError) and (code := re.search(r"os error (\d+)", str(error))):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes that place, and when the body raises it goes.

    Raises ValueError when something else than an empty folder is at `path`.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is there already; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as home:
        folder = Path(home) / path.name
        folder.mkdir()
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                flush(file)
        if path.exists():
            path.rmdir()
        os.replace(folder, path)


def flush(path: Path) -> None:
    """Bring the file onto the disk before its name points to it, readable as any new file would be."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def check_space(folder: Path, size: int) -> None:
    """Raise ValueError, before any work is done, unless so many bytes fit where the folder is or will be."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise ValueError(f"{existing} has {free / 1e9:.2f} GB free and {size / 1e9:.2f} GB are needed; make room there")
