"""Ctrl-C between two steps of learning, never within one."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TOLD_TWICE = 10.0  # seconds within which torchrun hands on the Ctrl-C that the terminal has sent too


@contextmanager
def deferring_ctrl_c(several: bool = False) -> Iterator[Callable[[], bool]]:
    """Ctrl-C is noted, not raised, so that no step is left half made; yields whether it came. A second one raises.

    several: whether torchrun started several processes; a second one is then the first once more for some seconds.
    Only Python's own handling is replaced, and only in the main thread, where alone Ctrl-C arrives.
    """
    noted: list[float] = []
    again = TOLD_TWICE if several else 0.0
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(time.monotonic())
        if noted[-1] - noted[0] > again or (len(noted) > 1 and not again):
            signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
