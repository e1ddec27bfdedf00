"""Stable Diffusion 1.5 computed from the keys of its single file, without any of our networks or names.

What a module is can be read off the keys below its prefix, and the order of execution off their numbers: the U-Net's
input blocks, its middle, then its output blocks, each joined with the input block it mirrors. The arithmetic is that of
reference.py, in float64.
"""

from collections.abc import Mapping
from types import SimpleNamespace

import reference
import torch
from torch import Tensor

HEADS = 8  # num_heads of the published configuration, at every width
UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
State = Mapping[str, Tensor]


def layer(state: State, prefix: str, **numbers) -> SimpleNamespace:
    """Weight and bias below a prefix, as the functions of reference.py read them off a module."""
    return SimpleNamespace(weight=state[f"{prefix}.weight"], bias=state.get(f"{prefix}.bias"), **numbers)


def numbered(state: State, prefix: str) -> list[str]:
    """The prefixes one number longer, in order."""
    numbers = {int(key[len(prefix) :].split(".")[1]) for key in state if key.startswith(f"{prefix}.")}
    return [f"{prefix}.{i}" for i in sorted(numbers)]


def unet(state: State, latents: Tensor, t: list[int], context: Tensor, groups: int, heads: int = HEADS) -> Tensor:
    """The output of the U-Net. t: one timestep for each row. groups: of its group norms, 32 as published."""
    first = layer(state, f"{UNET}time_embed.0")
    time = reference.linear(first, reference.timestep_embedding(t, first.weight.shape[1]))
    time = reference.linear(layer(state, f"{UNET}time_embed.2"), reference.silu(time))

    def run(block: str, x: Tensor) -> Tensor:
        for module in numbered(state, block):
            x = apply(state, module, x, time, context, groups, heads)
        return x

    x, skips = latents, []
    for block in numbered(state, f"{UNET}input_blocks"):
        x = run(block, x)
        skips.append(x)
    x = run(f"{UNET}middle_block", x)
    for block in numbered(state, f"{UNET}output_blocks"):
        x = run(block, torch.cat([x, skips.pop()], dim=1))
    x = reference.silu(reference.group_norm(layer(state, f"{UNET}out.0", num_groups=groups, eps=1e-5), x))
    return convolved(state, f"{UNET}out.2", x)


def apply(state: State, prefix: str, x: Tensor, time: Tensor, context: Tensor, groups: int, heads: int) -> Tensor:
    """One module of the U-Net, whichever it is."""
    if f"{prefix}.in_layers.0.weight" in state:
        return res_block(state, prefix, x, time, groups)
    if f"{prefix}.proj_in.weight" in state:
        return transformer(state, prefix, x, context, groups, heads)
    if f"{prefix}.op.weight" in state:
        return convolved(state, f"{prefix}.op", x, stride=2)
    if f"{prefix}.conv.weight" in state:
        return convolved(state, f"{prefix}.conv", x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    return convolved(state, prefix, x)


def convolved(state: State, prefix: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution padded to keep the size: by one pixel where the kernel is 3 wide, by none where it is 1."""
    kernel = layer(state, prefix)
    margin = kernel.weight.shape[-1] // 2
    return reference.convolution(kernel, reference.pad(x, *[margin] * 4), stride)


def res_block(state: State, prefix: str, x: Tensor, time: Tensor, groups: int) -> Tensor:
    def norm(i: str, h: Tensor) -> Tensor:
        return reference.silu(reference.group_norm(layer(state, f"{prefix}.{i}", num_groups=groups, eps=1e-5), h))

    h = convolved(state, f"{prefix}.in_layers.2", norm("in_layers.0", x))
    h = h + reference.linear(layer(state, f"{prefix}.emb_layers.1"), reference.silu(time))[:, :, None, None]
    h = convolved(state, f"{prefix}.out_layers.3", norm("out_layers.0", h))
    skip = f"{prefix}.skip_connection"
    return h + (convolved(state, skip, x) if f"{skip}.weight" in state else reference.exact(x))


def transformer(state: State, prefix: str, x: Tensor, context: Tensor, groups: int, heads: int) -> Tensor:
    """Normalise, convolve by 1x1, attend over all places, convolve by 1x1, add."""
    h = reference.group_norm(layer(state, f"{prefix}.norm", num_groups=groups, eps=1e-6), x)
    h = convolved(state, f"{prefix}.proj_in", h)
    tokens = h.flatten(2).mT
    for block in numbered(state, f"{prefix}.transformer_blocks"):
        tokens = transformer_block(state, block, tokens, context, heads)
    h = tokens.mT.reshape(h.shape)
    return reference.exact(x) + convolved(state, f"{prefix}.proj_out", h)


def transformer_block(state: State, prefix: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    def norm(i: int) -> Tensor:
        return reference.layer_norm(layer(state, f"{prefix}.norm{i}", eps=1e-5), x)

    def attention(i: int, queries: Tensor, keys: Tensor) -> Tensor:
        names = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
        parts = {ours: layer(state, f"{prefix}.attn{i}.{theirs}") for ours, theirs in names.items()}
        return reference.attention_layer(SimpleNamespace(heads=heads, **parts), queries, keys)

    x = x + attention(1, norm(1), norm(1))
    x = x + attention(2, norm(2), context)
    ff = f"{prefix}.ff.net"
    gated = SimpleNamespace(proj_in=layer(state, f"{ff}.0.proj"), proj_out=layer(state, f"{ff}.2"))
    return x + reference.geglu(gated, norm(3))


def text(state: State, tokens: Tensor, heads: int) -> Tensor:
    """The context: every layer of CLIP's text transformer, then its last norm. tokens: (b 77)."""
    embeddings = f"{TEXT}embeddings"
    x = reference.exact(state[f"{embeddings}.token_embedding.weight"])[tokens]
    x = x + reference.exact(state[f"{embeddings}.position_embedding.weight"])
    for prefix in numbered(state, f"{TEXT}encoder.layers"):
        names = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
        parts = {ours: layer(state, f"{prefix}.self_attn.{theirs}") for ours, theirs in names.items()}
        normed = reference.layer_norm(layer(state, f"{prefix}.layer_norm1", eps=1e-5), x)
        x = x + reference.attention_layer(SimpleNamespace(heads=heads, **parts), normed, normed, causal=True)
        normed = reference.layer_norm(layer(state, f"{prefix}.layer_norm2", eps=1e-5), x)
        hidden = reference.quick_gelu(reference.linear(layer(state, f"{prefix}.mlp.fc1"), normed))
        x = x + reference.linear(layer(state, f"{prefix}.mlp.fc2"), hidden)
    return reference.layer_norm(layer(state, f"{TEXT}final_layer_norm", eps=1e-5), x)
