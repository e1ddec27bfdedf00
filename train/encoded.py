"""What networks that do not learn make of pictures and prompts: made once, and not again by a run that goes on.

The latents' Gaussians of pictures whose squares never change, and the text states of prompts where the text encoder is
frozen. They are known by what they were made of and by which model, so a changed picture is encoded anew; and they are
kept as they were, to the bit, beside a run's checkpoint and beside the pictures of a class.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weights.records import FileKind, TensorRule, read, write

ENCODED_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class EncodedBy:
    """The fingerprint of the model that encoded it."""

    base: str


ENCODED_KIND = FileKind(
    "file of encoded pictures",
    EncodedBy,
    {"*": TensorRule(dtypes=ENCODED_DTYPES)},
    limits={"base": (1, 200)},
    again="delete it",
)


class Encoded:
    """What has been made so far, by one model."""

    def __init__(self, base: str = "", file: Path | None = None, known: bool = True) -> None:
        """base: the model's fingerprint. file: where it is kept, None for nowhere. known: whether to read that first.

        A file of another model, or one that is damaged, is as good as none.
        """
        self.base, self.file, self.held = base, file, dict[str, Tensor]()
        self.used, self.written = set[str](), False
        if file is not None and known:
            with suppress(ValueError, OSError):
                held, by = read(file, ENCODED_KIND)
                if by.base == base:
                    self.held, self.written = held, True

    def of(self, kind: str, made_of: Sequence[Tensor], shape: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        """What was made of these tensors, on the CPU; made now where that is not there, in this shape."""
        key = f"{kind}.{tensors_hash(made_of)}"
        if key not in self.held or self.held[key].shape != shape:
            self.held[key], self.written = make().detach().cpu(), False
        self.used.add(key)
        return self.held[key]

    def keep(self) -> None:
        """Write what was asked for, complete or not at all, unless it is there. Raises OSError."""
        if self.file is not None and self.used and not self.written:
            write(self.file, ENCODED_KIND, {key: self.held[key] for key in sorted(self.used)}, EncodedBy(self.base))
            self.written = True


def tensors_hash(tensors: Sequence[Tensor]) -> str:
    """What tells them from others of other shapes or numbers."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(str(tuple(tensor.shape)).encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()
