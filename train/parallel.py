"""Several processes that learn together: each sees its share of a step's rows, and their gradients are averaged.

`torchrun --nproc-per-node N -m ...` starts them; torch.distributed joins them, over gloo on CPUs and nccl on GPUs. A
step of N processes with b rows each is a step of one process with N b rows, but for rounding: all draw the same rows
from the same stream, and each computes its own.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train.config import LearnConfig
from train.data import Rows

Settings = TypeVar("Settings", bound=LearnConfig)
PATIENCE = timedelta(days=2)  # others wait while one draws samples, or is at its last concept


@dataclass(frozen=True)
class Team:
    """This process among `count` that learn together, 0..count - 1. Of one, nothing is sent anywhere."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Self:
        """The processes that torchrun started, once all are there; alone where it started none, or one."""
        count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if count > 1 and not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(rank, count)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def together(self, config: Settings) -> Settings:
        """The configuration of all processes as one: `batch` of each is what it was.

        Raises ValueError for more rows than a step may have.
        """
        return replace(config, batch=config.batch * self.count)

    def share(self, rows: Rows) -> Rows:
        """This process' part of rows that all have drawn."""
        each = len(rows.t) // self.count
        return Rows(*(column[self.rank * each : (self.rank + 1) * each] for column in rows))

    def averaging(self, parameters: Iterable[nn.Parameter], loss: Callable[[Rows], Tensor]) -> Callable[[Rows], Tensor]:
        """The loss as a function whose gradients, once they are there, are the mean of all processes'."""
        return loss if self.count == 1 else DistributedDataParallel(_Loss(parameters, loss))

    def apart(self, loss: Callable[[Rows], Tensor]) -> AbstractContextManager[None]:
        """Within it such a loss's gradients are added up here, and not yet averaged."""
        return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()

    def mean(self, value: float, device: torch.device) -> float:
        """The mean of all processes' values."""
        return self._reduced(value, device) / self.count

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether it is so in one of them."""
        return self._reduced(float(value), device) > 0

    def _reduced(self, value: float, device: torch.device) -> float:
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(shared)
        return shared.item()

    def gather(self, found: Any) -> list[Any]:
        """What each of them found, by rank; all wait for the last."""
        if self.count == 1:
            return [found]
        everyones: list[Any] = [None] * self.count
        dist.all_gather_object(everyones, found)
        return everyones


ALONE = Team()


class _Loss(nn.Module):
    """A loss as a module that has its parameters, which is what DistributedDataParallel wants."""

    def __init__(self, parameters: Iterable[nn.Parameter], loss: Callable[[Rows], Tensor]) -> None:
        super().__init__()
        for i, parameter in enumerate(parameters):
            self.register_parameter(str(i), parameter)
        self.loss = loss

    def forward(self, rows: Rows) -> Tensor:
        return self.loss(rows)
