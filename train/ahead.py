"""Rows drawn one call early: while the device computes a step, the processor draws the rows of the next.

A GPU is given its work and computes it later; whoever then asks for the loss waits. The next rows are drawn in between,
and sent to the device from memory it can read by itself. On a CPU the order is the same, and nothing is gained.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from train.data import Rows, Stream


class Ahead:
    """What some streams give next, perhaps drawn already. To whoever asks, the streams are where they would be anyway:
    rows that nobody has taken are not behind them."""

    def __init__(self, streams: Mapping[str, Stream], draw: Callable[[], Rows], device: torch.device) -> None:
        """streams: all that `draw` draws from. device: where the rows are for."""
        self.streams, self.draw, self.device = streams, draw, device
        self.rows: Rows | None = None
        self.before: dict[str, dict[str, Tensor]] = {}

    def prepare(self) -> None:
        """Draw the next rows now, unless they are there."""
        if self.rows is None:
            self.before = {kind: stream.state() for kind, stream in self.streams.items()}
            self.rows = sent(self.draw(), self.device)

    def take(self) -> Rows:
        """The next rows."""
        rows, self.rows = self.rows or sent(self.draw(), self.device), None
        return rows

    def state(self) -> dict[str, Tensor]:
        """The streams' states by "kind.key", as if nothing were drawn that is not taken."""
        states = {kind: stream.state() for kind, stream in self.streams.items()} if self.rows is None else self.before
        return {f"{kind}.{key}": value for kind, state in states.items() for key, value in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.rows = None
        for kind, stream in self.streams.items():
            stream.restore({key: state[f"{kind}.{key}"] for key in ("generator", "queue")})


def sent(rows: Rows, device: torch.device) -> Rows:
    """The rows with their latents and noise on the device, or on their way there; the rest is asked for on the CPU."""
    if device.type != "cuda":
        return rows._replace(x0=rows.x0.to(device), eps=rows.eps.to(device))
    x0, eps = (column.pin_memory().to(device, non_blocking=True) for column in (rows.x0, rows.eps))
    return rows._replace(x0=x0, eps=eps)
