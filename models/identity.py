"""Which stored weights the networks hold, for as long as nobody changes them.

A checkpoint is read once, and its weights are known by a digest of the values in the file. The digest stays true in
another dtype, whose rounding cannot be undone, and on another device; a change of a weight in place ends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

MARKED = 8  # numbers of each tensor that a mark remembers


@dataclass(frozen=True)
class Mark:
    """A network's tensors as they once were: which, how often each had been written to, and a few numbers of each.

    Every operation in place counts up a tensor's version, except that of a fused optimizer; those show in the numbers.
    Module.to does not count: it keeps parameters and their versions, and rounds the numbers as they are rounded here.
    """

    tensors: tuple[ReferenceType[Tensor], ...]
    versions: tuple[int, ...]
    numbers: Tensor

    @classmethod
    def of(cls, network: nn.Module) -> "Mark":
        """The network as it is now."""
        tensors = _tensors(network)
        return cls(tuple(ref(tensor) for tensor in tensors), tuple(map(_version, tensors)), _numbers(tensors))

    def holds(self, network: nn.Module) -> bool:
        """Whether the network has these tensors still, and they their values or those values rounded by Module.to."""
        tensors = _tensors(network)
        if len(tensors) != len(self.tensors) or any(a() is not b for a, b in zip(self.tensors, tensors, strict=True)):
            return False
        if tuple(map(_version, tensors)) != self.versions:
            return False
        rounded = self.numbers.to(tensors[0].dtype).float() if tensors else self.numbers
        return torch.equal(rounded, _numbers(tensors))


@dataclass(frozen=True)
class Identity:
    """What the networks of a model are known by; weights.fingerprint makes it, and reads it.

    digests: of the stored weights, network by network. concepts: digests of what was put on top of them since, in
    order. marks: to tell whether a network has changed since.
    """

    digests: Mapping[str, str]
    concepts: tuple[str, ...]
    marks: Mapping[str, Mark]


def _tensors(network: nn.Module) -> list[Tensor]:
    return list(network.state_dict(keep_vars=True).values())


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # under inference_mode nothing is counted


def _numbers(tensors: list[Tensor]) -> Tensor:
    """Some numbers from the middle row of every tensor, float32, on the CPU; gathered first, for one transfer."""
    rows = (
        tensor.detach()[len(tensor) // 2].reshape(-1)
        for tensor in tensors
        if tensor.numel() and tensor.ndim and not tensor.is_meta
    )
    samples = [row[:: max(1, len(row) // MARKED)][:MARKED].float() for row in rows]
    return torch.cat(samples).cpu() if samples else torch.zeros(0)
