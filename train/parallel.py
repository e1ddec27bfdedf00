"""Several processes that learn together: each sees its share of a step's rows, and their gradients are averaged.

`torchrun --nproc-per-node N -m ...` starts them; torch.distributed joins them, over gloo on CPUs and nccl on GPUs. A
step of N processes with b rows each is a step of one process with N b rows, but for rounding: all draw the same rows
from the same stream, and each computes its own. Each holds all that learns, or its part of it (train/sharding.py).
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
from train.sharding import in_pieces, is_piece, worth_cutting
from weights.load import Model
from weights.names import NetworkName

Settings = TypeVar("Settings", bound=LearnConfig)
SENT_AT_ONCE = 2**25  # numbers sent together: few calls, and little memory beside a large network's gradients
PATIENCE = timedelta(days=2)  # others wait while one draws samples, or is at its last concept


@dataclass(frozen=True)
class Team:
    """This process among `count` that learn together, 0..count - 1. Of one, nothing is sent anywhere.

    shards: whether each holds only its part of networks that learn as a whole.
    """

    rank: int = 0
    count: int = 1
    shards: bool = False

    @classmethod
    def join(cls, device: torch.device, shards: bool = False) -> Self:
        """The processes that torchrun started, once all are there; alone where it started none, or one.

        Raises ValueError for one that shards.
        """
        count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if shards and count == 1:
            raise ValueError(
                "one process has nobody to share the weights with; start several with torchrun --nproc-per-node, or "
                "leave shard out"
            )
        if count > 1 and not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(rank, count, shards)

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
        alone = self.count == 1 or self.shards  # networks in pieces see to it themselves
        return loss if alone else DistributedDataParallel(_Loss(parameters, loss))

    def apart(self, loss: Callable[[Rows], Tensor]) -> AbstractContextManager[None]:
        """Within it such a loss's gradients are added up here, and not yet averaged, but for networks in pieces."""
        return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()

    def cut(self, model: Model, learning: Collection[str]) -> list[NetworkName]:
        """The networks that the team will learn in pieces: where it shards, U-Net and text encoder if all of them does.

        learning: the names of all that learns. Raises ValueError where the team shards and there is none.
        """
        names = worth_cutting(model.networks, learning) if self.shards else []
        if self.shards and not names:
            raise ValueError(
                "only networks that learn as a whole are shared out in pieces, as with the method dreambooth; by this "
                "method few weights learn, and every process has room for them: leave shard out"
            )
        return names

    def spread(self, model: Model, names: Sequence[NetworkName]) -> AbstractContextManager[Model]:
        """The model to learn with, these of its networks in pieces; afterwards the model has not changed."""
        return in_pieces(model, names) if names else nullcontext(model)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes; pieces' are that already."""
        if self.count == 1:
            return
        for grads in _batches([p.grad for p in parameters if p.grad is not None and not is_piece(p)]):
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(flat)
            flat /= self.count
            for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(mean.view_as(grad))

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

    def first(self, value: float, device: torch.device) -> float:
        """The first process' value, in all of them, once it is there."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return shared.item()

    def gather(self, found: Any) -> list[Any]:
        """What each of them found, by rank; all wait for the last."""
        if self.count == 1:
            return [found]
        everyones: list[Any] = [None] * self.count
        dist.all_gather_object(everyones, found)
        return everyones


ALONE = Team()


def own_device(name: str) -> str:
    """The device of this name; of several GPUs each process that torchrun started has its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name


def _batches(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """All of them in order, so many together that they have at most SENT_AT_ONCE numbers, or one alone."""
    together: list[Tensor] = []
    for tensor in tensors:
        if together and sum(one.numel() for one in together) + tensor.numel() > SENT_AT_ONCE:
            yield together
            together = []
        together.append(tensor)
    if together:
        yield together


class _Loss(nn.Module):
    """A loss as a module that has its parameters, which is what DistributedDataParallel wants."""

    def __init__(self, parameters: Iterable[nn.Parameter], loss: Callable[[Rows], Tensor]) -> None:
        super().__init__()
        for i, parameter in enumerate(parameters):
            self.register_parameter(str(i), parameter)
        self.loss = loss

    def forward(self, rows: Rows) -> Tensor:
        return self.loss(rows)
