"""How many bytes tensors hold, counted as they come and go: the same in every run, on tensors without data too."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.config import UNetConfig
from models.unet import UNet


class Live(TorchDispatchMode):
    """Within it, `held` counts the bytes of what was made within it and is still there, `peak` their highest.

    What a kernel takes for itself while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        answer = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(answer):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known and storage._cdata not in given:
                    self._count(storage)
        self.peak = max(self.peak, self.held)
        return answer

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: object) -> None:
            del self.known[key]
            self.held -= size

        self.known[key] = weakref.ref(storage, gone)
        self.held += size


def peak_of(job: Callable[[], object]) -> int:
    """The most bytes that tensors made by a job held at once."""
    with Live() as live:
        job()
    return live.peak


def peaks_of(steps: Iterator[object]) -> list[int]:
    """The same for each step of a run, what it keeps from one to the next included."""
    found = []
    with Live() as live:
        for _ in steps:
            found.append(live.peak)
            live.peak = live.held
    return found


def without_data(config: UNetConfig) -> tuple[UNet, FakeTensorMode]:
    """A U-Net of shapes alone, of any size, and the mode in which to make its inputs."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        return UNet(config).eval().requires_grad_(False), mode
