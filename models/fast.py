"""What makes a model's calls faster, and leaves what they compute but for rounding.

`make_fast` lays convolutions out by place (channels last), makes q, k and v of self-attention in one matrix product,
and where it is told to has the U-Net compiled: once for each table of hooks, of which a swap has at most four (phi and
A, M and A, M, none), and once more for another size. On a GPU the compiled network is replayed as a CUDA graph, which
spares the launches of its thousand kernels. What compiling costs is in `WarmUp`.

`fastest_dtype` says what to run the networks in. The samplers' arithmetic stays float32 in any case.
"""

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.attention import Attention
from models.blocks import ResBlock
from models.hooks import Hook, Hooks
from models.stable_diffusion import LatentDiffusion
from models.transformer import Context, TransformerBlock
from models.unet import UNet

Compiled = Literal["whole", "blocks"]
MOST_GRAPHS = 64  # of one function, compiled by blocks: resolutions x widths x hooks
NARROW = 128  # channels of the U-Net below which rounding to bfloat16 costs the CPU more than it saves


@dataclass
class WarmUp:
    """What compiling has cost so far: how many graphs, and the seconds of the calls that made them."""

    graphs: int = 0
    seconds: float = 0.0

    def of(self, call: Callable[[], Tensor]) -> Tensor:
        """What a call returns; its seconds are counted if something was compiled in it."""
        before, start = _graphs(), time.perf_counter()
        out = call()
        if found := _graphs() - before:
            self.graphs, self.seconds = self.graphs + found, self.seconds + time.perf_counter() - start
        return out

    def __str__(self) -> str:
        return f"warm-up {self.seconds:.1f} s, {self.graphs} graphs"


def fastest_dtype(device: torch.device, channels: int) -> torch.dtype:
    """What networks run fastest in on a device, as far as its capabilities tell.

    bfloat16 on GPUs that multiply it (compute capability 8.0 and above) and float16 on older ones; on CPUs bfloat16
    where there are instructions for it (AMX, AVX-512-BF16) and the U-Net, of so many channels, is wide enough to gain
    from them; else float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    multiplies = device.type == "cpu" and channels >= NARROW and _cpu_multiplies_bfloat16()
    return torch.bfloat16 if multiplies else torch.float32


def make_fast(model: LatentDiffusion, compiled: Compiled | None = None, backend: str = "inductor") -> WarmUp | None:
    """Make a model fast, in place; put concepts in and choose device and dtype before.

    compiled: the U-Net as one graph, or its blocks each as one, which warms up faster and runs slower; None for
    neither. Only calls without gradients run compiled, and only those whose maps nobody reads: a reader wants to be
    called. backend: of torch.compile. Returns what the warm-up costs, filled as calls are made; None without one.
    """
    for network in (model.unet, model.vae):
        network.to(memory_format=torch.channels_last)
        for layer in network.modules():
            if isinstance(layer, Attention):
                layer.join_projections()
    if compiled is None:
        return None
    options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
    if backend == "inductor" and model.device.type == "cuda":
        options["mode"] = "reduce-overhead" if compiled == "whole" else "max-autotune-no-cudagraphs"
    warm_up = WarmUp()
    model.unet.body = _whole(options, warm_up) if compiled == "whole" else _by_blocks(options, warm_up, model.unet)
    return warm_up


def set_tiling(model: LatentDiffusion, tile: bool | None) -> None:
    """Whether pictures go through the autoencoder in bands (models/tiling.py); None for large ones alone."""
    model.vae.tile = tile


def _graphs() -> int:
    """How many graphs torch has compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _whole(options: dict[str, Any], warm_up: WarmUp) -> Callable[..., Tensor]:
    graph = torch.compile(UNet.denoise, **options)

    def body(unet: UNet, latents: Tensor, t: Tensor, context: Context, hooks: Hooks) -> Tensor:
        if torch.is_grad_enabled() or any(hook.map is not None for hook in hooks.values()):
            return unet.denoise(latents, t, context, hooks)
        latents = latents.contiguous(memory_format=torch.channels_last)
        # a copy: the graph's own memory is written over by the next call
        return warm_up.of(lambda: graph(unet, latents, t, context, hooks).clone())

    return body


def _by_blocks(options: dict[str, Any], warm_up: WarmUp, unet: UNet) -> Callable[..., Tensor]:
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options = {**options, "recompile_limit": MOST_GRAPHS}
    for kind, compute in ((ResBlock, ResBlock.moved), (TransformerBlock, TransformerBlock.attended)):
        graph = torch.compile(compute, **options)
        for block in unet.modules():
            if isinstance(block, kind):
                block.body = _unread(graph, compute)

    def body(unet: UNet, latents: Tensor, t: Tensor, context: Context, hooks: Hooks) -> Tensor:
        return warm_up.of(lambda: unet.denoise(latents, t, context, hooks))

    return body


def _unread(graph: Callable[..., Tensor], compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The compiled form, or the function itself where gradients are wanted or a map is read."""

    def body(block: nn.Module, *inputs: Any) -> Tensor:
        read = any(isinstance(one, Hook) and one.map is not None for one in inputs)
        return (compute if read or torch.is_grad_enabled() else graph)(block, *inputs)

    return body


def _cpu_multiplies_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
