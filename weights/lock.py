"""One process at a time: a lock file that the system releases when its holder ends, however it ends."""

import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCKED_BYTE = 2**20  # on Windows a locked byte cannot be read, so it lies beyond the text that says who holds it


class Held(Exception):
    """Somebody else has the lock; str() says who."""


@contextmanager
def locked(path: Path, without: Literal["warn", "go on", "raise"] = "warn") -> Iterator[None]:
    """Hold the lock for the body. The file is there meanwhile, and says who holds it. Raises Held.

    A file that a killed process left is no lock, and is taken over. without: what to do where the file system knows no
    locks: warn and go on without one, go on in silence, or raise the OSError.
    """
    file = _take(path, without)
    try:
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        if sys.platform == "win32":  # where an open file cannot be removed
            file.close()
            with suppress(PermissionError):
                path.unlink()
        else:  # removed while it is still locked, so that it is nobody else's by then
            path.unlink(missing_ok=True)
            file.close()


def _take(path: Path, without: str) -> IO[str]:
    """The lock file, open, locked and empty. Raises Held."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - `locked` closes it
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read(200).strip()
            file.close()
            raise Held(holder or "another process") from None
        except OSError as error:
            if without == "raise":
                file.close()
                raise
            if without == "warn":
                warnings.warn(f"cannot lock {path} ({error.strerror}): run one at a time", stacklevel=4)
        if _is_at(file.fileno(), path):
            file.truncate(0)
            return file
        file.close()  # its holder finished, and removed it, between our opening and our locking


def _lock(handle: int) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError or PermissionError when somebody else has it."""
    if sys.platform == "win32":
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that bears the name now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
