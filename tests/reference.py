"""The same mathematics, slow and obvious: float64 on the CPU, one row, head and kernel tap at a time.

Every function takes the parameters it needs as tensors or as the module under test, and uses none of its code.
"""

import math

import torch
from torch import Tensor, nn


def exact(x: Tensor) -> Tensor:
    """A copy in float64 on the CPU, cut from any graph."""
    return x.detach().to("cpu", torch.float64)


def attention_map(q: Tensor, k: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt d) for q (b h n d) and k (b h m d)."""
    q, k = exact(q), exact(k)
    maps = torch.zeros(*q.shape[:3], k.shape[2], dtype=torch.float64)
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = i + 1 if causal else k.shape[2]
                logits = [(q[row, head, i] @ k[row, head, j]).item() / math.sqrt(q.shape[3]) for j in range(seen)]
                weights = [math.exp(logit - max(logits)) for logit in logits]
                maps[row, head, i, :seen] = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return maps


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """The map times v (b h m d)."""
    return attention_map(q, k, causal) @ exact(v)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    y = exact(x) @ exact(layer.weight).T
    return y if layer.bias is None else y + exact(layer.bias)


def attention_layer(layer: nn.Module, x: Tensor, context: Tensor, causal: bool = False) -> Tensor:
    """A whole attention layer: heads are consecutive slices of the channels."""
    q, k, v = linear(layer.to_q, x), linear(layer.to_k, context), linear(layer.to_v, context)
    width = q.shape[-1] // layer.heads
    outputs = []
    for head in range(layer.heads):
        own = slice(head * width, (head + 1) * width)
        outputs.append(attention(q[:, None, :, own], k[:, None, :, own], v[:, None, :, own], causal)[:, 0])
    return linear(layer.to_out, torch.cat(outputs, dim=-1))


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    x = exact(x)
    centred = x - x.mean(dim=-1, keepdim=True)
    spread = (centred.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt()
    return centred / spread * exact(norm.weight) + exact(norm.bias)


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    x = exact(x).clone()
    size = x.shape[1] // norm.num_groups
    for row in range(x.shape[0]):
        for start in range(0, x.shape[1], size):
            group = x[row, start : start + size]
            centred = group - group.mean()
            x[row, start : start + size] = centred / (centred.square().mean() + norm.eps).sqrt()
    return x * exact(norm.weight)[:, None, None] + exact(norm.bias)[:, None, None]


def pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    b, c, h, w = x.shape
    padded = torch.zeros(b, c, top + h + bottom, left + w + right, dtype=torch.float64)
    padded[:, :, top : top + h, left : left + w] = exact(x)
    return padded


def convolution(layer: nn.Conv2d, padded: Tensor, stride: int = 1) -> Tensor:
    """Correlate an already padded picture with the kernel, one tap at a time."""
    weight, size = exact(layer.weight), layer.weight.shape[-1]
    h = (padded.shape[2] - size) // stride + 1
    w = (padded.shape[3] - size) // stride + 1
    out = exact(layer.bias)[None, :, None, None].expand(padded.shape[0], -1, h, w).clone()
    for i in range(size):
        for j in range(size):
            tap = padded[:, :, i : i + stride * h : stride, j : j + stride * w : stride]
            out += torch.einsum("bchw,oc->bohw", tap, weight[:, :, i, j])
    return out


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def timestep_embedding(t: list[int], channels: int) -> Tensor:
    half = channels // 2
    rows = []
    for step in t:
        angles = [step * 10000 ** (-i / half) for i in range(half)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    return torch.tensor(rows, dtype=torch.float64)


def res_block(block: nn.Module, x: Tensor, time: Tensor | None = None) -> Tensor:
    h = convolution(block.conv1, pad(silu(group_norm(block.norm1, x)), 1, 1, 1, 1))
    if time is not None:
        h = h + linear(block.time, silu(exact(time)))[:, :, None, None]
    h = convolution(block.conv2, pad(silu(group_norm(block.norm2, h)), 1, 1, 1, 1))
    return h + (exact(x) if block.shortcut is None else convolution(block.shortcut, exact(x)))


def geglu(layer: nn.Module, x: Tensor) -> Tensor:
    hidden = linear(layer.proj_in, x)
    half = hidden.shape[-1] // 2
    return linear(layer.proj_out, hidden[..., :half] * gelu(hidden[..., half:]))


def transformer_block(block: nn.Module, x: Tensor, context: Tensor) -> Tensor:
    x = exact(x)
    normed = layer_norm(block.norm1, x)
    x = x + attention_layer(block.attn1, normed, normed)
    x = x + attention_layer(block.attn2, layer_norm(block.norm2, x), context)
    return x + geglu(block.ff, layer_norm(block.norm3, x))


def spatial_transformer(layer: nn.Module, x: Tensor, context: Tensor) -> Tensor:
    b, c, h, w = x.shape
    tokens = linear(layer.proj_in, group_norm(layer.norm, x).permute(0, 2, 3, 1).reshape(b, h * w, c))
    for block in layer.blocks:
        tokens = transformer_block(block, tokens, context)
    return exact(x) + linear(layer.proj_out, tokens).reshape(b, h, w, c).permute(0, 3, 1, 2)


def clip_layer(layer: nn.Module, x: Tensor, activation, causal: bool = False) -> Tensor:
    normed = layer_norm(layer.norm1, x)
    x = exact(x) + attention_layer(layer.attn, normed, normed, causal)
    hidden = activation(linear(layer.mlp.linear1, layer_norm(layer.norm2, x)))
    return x + linear(layer.mlp.linear2, hidden)


def vision_tower(tower: nn.Module, pictures: Tensor, activation) -> Tensor:
    """Each patch by itself, left to right and top to bottom, behind the class token."""
    side, weight = tower.config.patch, exact(tower.patches.weight)
    rows = []
    for picture in exact(pictures):
        tokens = [exact(tower.class_embedding)]
        for top in range(0, picture.shape[1], side):
            for left in range(0, picture.shape[2], side):
                patch = picture[:, top : top + side, left : left + side]
                tokens.append(torch.stack([(kernel * patch).sum() for kernel in weight]))
        rows.append(torch.stack(tokens))
    x = layer_norm(tower.norm_in, torch.stack(rows) + exact(tower.position_embedding.weight))
    for layer in tower.layers:
        x = clip_layer(layer, x, activation)
    return layer_norm(tower.norm_out, x)[:, 0]


def image_encoder(encoder: nn.Module, pictures: Tensor, activation) -> Tensor:
    """One token has nothing but itself to attend to: attention is its values, projected."""
    x = vision_tower(encoder.tower, pictures, activation)[:, None]
    for block in encoder.mapper:
        x = x + linear(block.attn.to_out, linear(block.attn.to_v, layer_norm(block.norm1, x)))
        x = x + linear(block.mlp.linear2, gelu(linear(block.mlp.linear1, layer_norm(block.norm2, x))))
    return linear(encoder.proj_out, layer_norm(encoder.final_norm, x))
