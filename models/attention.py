"""Attention, written as the paper's reader expects it.

Photoswap (arXiv:2305.18286), Eq. 2: phi = M v with M = softmax(q k^T / sqrt d), all of q, k, v projected from the
picture (`SelfAttention`); Eq. 3: psi = A v, with k and v projected from the text (`CrossAttention`). Both share one
core, `Attention`. Without a map hook the map is never built and the fused kernel runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.hooks import NO_HOOK, Edit, Hook, Projections, Site

KeysValues = tuple[Tensor, Tensor]
WIDE_HEAD = 64  # from here on a CPU's fused attention in bfloat16 has a backward pass as fast as in float32


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt d) v by the fused kernel, which never holds the map.

    q: (b h n d); k, v: (b h m d). causal: query i sees keys 0..i only. Returns (b h n d) in the dtype of q. Where a CPU
    learns in bfloat16, narrow heads are computed in float32: the kernel's backward pass takes up to four times as long
    in bfloat16 (tests/benchmarks, part dtypes).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-1] < WIDE_HEAD and torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=causal).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def mapped_attention(q: Tensor, k: Tensor, v: Tensor, edit: Edit) -> Tensor:
    """The same product with the map built, so that `edit` can read or replace it.

    The logits and the softmax are at least float32, autocast or not: SD 2.1's logits overflow half precision. edit:
    given the probabilities (b h n m), returns those to use. Returns (b h n d) in the dtype of v.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        logits = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).mT
        return edit(logits.softmax(dim=-1)).to(v.dtype) @ v


class Attention(nn.Module):
    """The core of self- and cross-attention: project, attend, project back, with a hook in each gap.

    channels: of x (b n channels) and of the result. context_channels: of what keys and values are projected from.
    bias: whether q, k and v have one (the U-Net's have none). joint: their weights as one matrix where they see the
    same, or None; see `join_projections`.
    """

    joint: Tensor | None = None

    def __init__(self, channels: int, context_channels: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_channels, channels, bias=bias)
        self.to_v = nn.Linear(context_channels, channels, bias=bias)
        self.to_out = nn.Linear(channels, channels)

    def project(self, x: Tensor, context: Tensor) -> Projections:
        """Queries (b h n d) of x and keys and values (b h m d) of context."""
        return self.queries(x), *self.keys_values(context)

    def join_projections(self) -> None:
        """Have one matrix product make q, k and v of x, where all three are made of x: the same but for rounding.

        The three weights become views of one matrix, under the names they had: loading, learning and concepts go on as
        before, in place. Moving the layer, or copying it, takes it back. Does nothing where there is a bias, and in
        cross-attention, whose keys and values are made once for all steps.
        """

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self.joint = None  # the weights are about to be replaced, one by one
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "joint": None}  # of a copy: its weights are copied one by one

    def queries(self, x: Tensor) -> Tensor:
        return self.split(self.to_q(x))

    def keys_values(self, context: Tensor) -> KeysValues:
        """Keys and values of context, (b h m d) each; they depend on nothing else."""
        return self.split(self.to_k(context)), self.split(self.to_v(context))

    def split(self, x: Tensor) -> Tensor:
        # (b n h d) to (b h n d); heads are consecutive slices of the channels, as in the published weights
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def combine(self, q: Tensor, k: Tensor, v: Tensor, hook: Hook) -> Tensor:
        """Attend and project back, (b n c), with the hook in each gap."""
        answer = hook.qkv(q, k, v)
        parts = answer if isinstance(answer, list) else [answer]
        done = [attend(*part) if hook.map is None else mapped_attention(*part, hook.map) for part in parts]
        heads = done[0] if len(done) == 1 else torch.cat(done)
        return self.to_out(hook.output(heads.transpose(1, 2).flatten(2)))  # (b n h d) to (b n c)


@dataclass(frozen=True, eq=False)
class PreparedContext:
    """Keys and values that the cross-attention layers of one U-Net make of a context, for calls that share it.

    keys_values: (b h m d) each, by site. context: what they were made of, (b m c'), for sites whose own are not kept.
    sites: of the U-Net. They belong to the weights as they were: prepare again once those have changed.
    """

    keys_values: Mapping[Site, KeysValues]
    context: Tensor
    sites: tuple[Site, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the context."""
        return tuple(self.context.shape)

    def at(self, site: Site) -> Tensor | KeysValues:
        """What the cross-attention layer at a site is given."""
        return self.keys_values.get(site, self.context)


class SelfAttention(Attention):
    """Photoswap Eq. 2, phi = M v: every place of the picture looks at every other. x: (b n c)."""

    def __init__(self, channels: int, heads: int, bias: bool = False) -> None:
        super().__init__(channels, channels, heads, bias)

    def join_projections(self) -> None:
        layers = (self.to_q, self.to_k, self.to_v)
        if self.to_q.bias is not None:
            return
        self.joint = torch.cat([layer.weight.data for layer in layers])
        for layer, part in zip(layers, self.joint.chunk(3), strict=True):
            layer.weight.data = part

    def project(self, x: Tensor, context: Tensor) -> Projections:
        if self.joint is None or x is not context:
            return super().project(x, context)
        q, k, v = rearrange(F.linear(x, self.joint), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return q, k, v

    def forward(self, x: Tensor, hook: Hook = NO_HOOK) -> Tensor:
        return self.combine(*self.project(x, x), hook)


class CrossAttention(Attention):
    """Photoswap Eq. 3, psi = A v: every place of the picture looks at every token.

    x: (b n c). context: (b m c'), or the keys and values that `keys_values` made of it before.
    """

    def forward(self, x: Tensor, context: Tensor | KeysValues, hook: Hook = NO_HOOK) -> Tensor:
        k, v = context if isinstance(context, tuple) else self.keys_values(context)
        return self.combine(self.queries(x), k, v, hook)
