"""Every number of a tensor in one pass: a checksum of its value, and its extremes, which tell NaN and infinity."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PIECE = 2**17  # numbers at once: they stay in a cache. Digests depend on it: with another, so would every fingerprint


class Scan(NamedTuple):
    """What one pass over a tensor finds. words: its shape and the sums of its pieces. low, high: its extremes."""

    words: str
    low: Tensor
    high: Tensor

    def is_finite(self, dtype: torch.dtype) -> bool:
        """Whether no number is NaN or infinite, or would be in this dtype: rounding keeps the order."""
        return bool((self.low.to(dtype).isfinite() & self.high.to(dtype).isfinite()).all())


def scan(tensor: Tensor) -> Scan:
    """Look at a real tensor piece by piece, each widened to float32, which is exact but for float64 and large integers.

    Equal numbers give equal words in every dtype that holds them, on every device.
    """
    sums, lows, highs = [], [], []
    for piece in tensor.detach().reshape(-1).split(PIECE):
        if not len(piece):
            break
        wide = piece if piece.dtype == torch.float64 else piece.float()
        low, high = wide.aminmax()
        lows.append(low)
        highs.append(high)
        sums.append(_checksum(wide.float()))
    if not sums:
        return Scan(f"{tuple(tensor.shape)} []", torch.zeros(1), torch.zeros(1))
    return Scan(f"{tuple(tensor.shape)} {torch.stack(sums).tolist()}", torch.stack(lows), torch.stack(highs))


def digest(words: Mapping[str, str]) -> str:
    """The SHA-256 of scanned tensors by name, in any order."""
    lines = (f"{name} {line}\n" for name, line in sorted(words.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The digest of tensors by name: of a concept, for instance. A second or so for a GB of float32 on one core."""
    return digest({name: scan(tensor).words for name, tensor in tensors.items()})


def _checksum(numbers: Tensor) -> Tensor:
    """The bits of every number (n,), float32, as an integer, each times a factor of its place, summed modulo 2^64.

    Exact in any order of summing. One changed integer always changes the sum, for factors are odd; several, as by a
    change of signs or of places, once in some 2^33 cases do not, for factors follow no pattern.
    """
    return (numbers.view(torch.int32) * _factors(numbers.device)[: len(numbers)]).sum()


@lru_cache(maxsize=4)
def _factors(device: torch.device) -> Tensor:
    """An odd number of 64 bits for each place: splitmix64 (doi:10.1145/2714064.2660195) of 1, 2, 3, ..."""
    z = np.arange(1, PIECE + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z | np.uint64(1)).view(np.int64)).to(device)
