"""The released Photoswap code's algorithm, slow and obvious, to hold ours against.

Written anew from a description of what that code does, to share nothing with what it checks: of ours it uses the
networks' weights and layers other than attention. It walks the U-Net itself, builds the map of every attention layer,
and edits maps where the released code does, in a controller that knows the step by counting calls. Rows are uncond
source, uncond target, cond source, cond target. What that code fixes to 50 steps and 77 tokens is here in proportion,
and so are the 16 x 16 places from which it blends at 512 px: a quarter of the latents' side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Controller:
    """Swaps in one run, by shares of the steps; keeps cross maps for the blend.

    f: the shares of A, phi and M. A share of phi below 0 never swaps it, which the released code cannot. most_queries:
    where M is swapped; the released code says 32 ** 2 whatever the size.
    """

    def __init__(
        self,
        unet: nn.Module,
        steps: int,
        size: tuple[int, int],
        pairing: "Pairing",
        f: dict,
        most_queries: int = 32**2,
    ) -> None:
        self.steps, self.places, self.pairing, self.most_queries = steps, size[0] * size[1], pairing, most_queries
        self.f_phi, self.f_A = f["phi"], f["A"]
        self.map_ends = int(steps * (f["M"] + f["phi"]) if f["phi"] >= 0 else steps * f["M"])
        self.layers = 2 * sum(len(stage.transformers) * unet.config.depth for stage in [*unet.down, unet.mid, *unet.up])
        self.cur_layer = self.cur_step = 0
        self.stored: dict[str, list[Tensor]] = {}
        self.sums: dict[str, list[Tensor]] = {}

    def borrow(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """phi: before the softmax of every self-attention layer, in both halves of guidance."""
        if 0 <= self.cur_step <= int(self.f_phi * self.steps):
            for x in (q, k, v):
                x[1] = x[0]
                x[3] = x[2]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, is_cross: bool, place: str) -> Tensor:
        maps = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
        return self.edit(maps, is_cross, place) @ v

    def features(self, x: Tensor, place: str) -> Tensor:
        """What a residual block adds to its shortcut."""
        return x

    def change(self, maps: Tensor, is_cross: bool) -> Tensor:
        """M and A, in the conditional half. maps: (4 heads n m)."""
        source, target = maps[2], maps[3]
        if is_cross and self.cur_step < int(self.f_A * (self.steps + 1)):
            target = self.pairing.refine(source, target)
        if not is_cross and self.cur_step < self.map_ends and maps.shape[2] <= self.most_queries:
            target = source
        return torch.stack([maps[0], maps[1], source, target])

    def edit(self, maps: Tensor, is_cross: bool, place: str) -> Tensor:
        maps = self.change(maps, is_cross)
        if is_cross and maps.shape[2] <= self.places // 4:
            self.stored.setdefault(place, []).append(maps[2:])
        self.count()
        return maps

    def count(self) -> None:
        self.cur_layer += 1
        if self.cur_layer == self.layers:
            self.cur_layer = 0
            self.cur_step += 1
            self.between_steps()

    def between_steps(self) -> None:
        for place, maps in self.stored.items():
            before = self.sums.get(place, [0.0] * len(maps))
            self.sums[place] = [a + b for a, b in zip(before, maps, strict=True)]
        self.stored = {}


class Pairing:
    """Needleman and Wunsch's alignment of two lists of ids: gap 0, match 1, mismatch -1.

    column[j]: the source's column for the target's token j, -1 where it has none. Columns after the target's last token
    pair by index.
    """

    def __init__(self, source: list[int], target: list[int], length: int) -> None:
        rows, cols = len(source), len(target)
        score = {(i, 0): 0 for i in range(rows + 1)} | {(0, j): 0 for j in range(cols + 1)}
        came_from = {(i, 0): "up" for i in range(rows + 1)} | {(0, j): "left" for j in range(1, cols + 1)}
        for i in range(1, rows + 1):
            for j in range(1, cols + 1):
                ways = {
                    "left": score[i, j - 1],
                    "up": score[i - 1, j],
                    "diagonal": score[i - 1, j - 1] + (1 if source[i - 1] == target[j - 1] else -1),
                }
                score[i, j] = max(ways.values())
                came_from[i, j] = next(way for way, value in ways.items() if value == score[i, j])
        self.column = list(range(length))
        i, j = rows, cols
        while i > 0 or j > 0:
            way = came_from[i, j]
            i -= way != "left"
            j -= way != "up"
            if way != "up":
                self.column[j] = i if way == "diagonal" else -1

    def refine(self, source: Tensor, target: Tensor) -> Tensor:
        """The target's map (heads n m) with the source's columns where there are such; rows are not rescaled."""
        columns = [target[..., j] if i < 0 else source[..., i] for j, i in enumerate(self.column)]
        return torch.stack(columns, dim=-1)


class LocalBlend:
    """Keeps the source's latents where neither subject's words are looked at. threshold: 0.3 in the released code."""

    def __init__(
        self, unet: nn.Module, prompts: list[str], words: list[str], steps: int, length: int, threshold: float = 0.3
    ) -> None:
        self.alpha = torch.zeros(2, length, dtype=torch.bool)
        for row, (prompt, word) in enumerate(zip(prompts, words, strict=True)):
            for i, candidate in enumerate(prompt.split(" ")):
                self.alpha[row, i + 1] = candidate == word
        self.per_level = unet.config.res_blocks
        self.counter, self.start, self.threshold, self.masks = 0, int(0.2 * steps), threshold, []

    def __call__(self, latents: Tensor, sums: dict[str, list[Tensor]]) -> Tensor:
        """latents: (2 4 h w), source and target."""
        self.counter += 1
        if not self.counter > self.start:
            return latents
        h, w = latents.shape[2] // 4, latents.shape[3] // 4
        n = (
            self.per_level
        )  # 2 in Stable Diffusion: the third and fourth stored layer going down, the first three going up
        maps = torch.cat(sums["down"][n : 2 * n] + sums["up"][: n + 1], dim=1)  # (2 layers*heads n m)
        heat = torch.stack([maps[row][..., self.alpha[row]].sum(-1).mean(0) for row in (0, 1)]).reshape(2, h, w)
        mask = upsampled(widened(heat), 4)
        mask = torch.stack([one / one.max() for one in mask]) > self.threshold
        mask = mask[0] | mask[1]
        self.masks.append(mask)
        source, target = latents
        return torch.stack([source, source + mask.to(latents.dtype) * (target - source)])


def widened(heat: Tensor) -> Tensor:
    """The largest of each place and its eight neighbours. heat: (2 h w)."""
    wide = heat.clone()
    for y in range(heat.shape[1]):
        for x in range(heat.shape[2]):
            near = heat[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            wide[:, y, x] = near.flatten(1).max(dim=1).values
    return wide


def upsampled(heat: Tensor, times: int) -> Tensor:
    return heat.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)


def attention(layer: nn.Module, x: Tensor, context: Tensor | None, control: Controller, place: str) -> Tensor:
    """One attention layer over its own weights, every map built; self-attention where there is no context."""
    is_cross = context is not None
    context = x if context is None else context
    q, k, v = (F.linear(y, to.weight) for y, to in ((x, layer.to_q), (context, layer.to_k), (context, layer.to_v)))
    if not is_cross:
        control.borrow(q, k, v)
    q, k, v = (torch.stack(y.chunk(layer.heads, dim=-1), dim=1) for y in (q, k, v))
    heads = control.attend(q, k, v, is_cross, place)
    return F.linear(torch.cat(heads.unbind(1), dim=-1), layer.to_out.weight, layer.to_out.bias)


def residual(block: nn.Module, x: Tensor, time: Tensor, control: Controller, place: str) -> Tensor:
    h = block.conv1(F.silu(block.norm1(x))) + block.time(F.silu(time))[:, :, None, None]
    h = control.features(block.conv2(F.silu(block.norm2(h))), place)
    return h + (x if block.shortcut is None else block.shortcut(x))


def transformer(module: nn.Module, x: Tensor, context: Tensor, control: Controller, place: str) -> Tensor:
    y = module.proj_in(module.norm(x).flatten(2).transpose(1, 2))
    for block in module.blocks:
        y = y + attention(block.attn1, block.norm1(y), None, control, place)
        y = y + attention(block.attn2, block.norm2(y), context, control, place)
        y = y + block.ff(block.norm3(y))
    return x + module.proj_out(y).transpose(1, 2).reshape(x.shape)


def network(unet: nn.Module, rows: Tensor, t: int, context: Tensor, control: Controller) -> Tensor:
    """The U-Net's output, layer by layer."""

    def layer(stage: nn.Module, j: int, x: Tensor, place: str) -> Tensor:
        x = residual(stage.resblocks[j], x, time, control, place)
        return transformer(stage.transformers[j], x, context, control, place) if j < len(stage.transformers) else x

    time = unet.time_embedding(torch.full((len(rows),), t))
    x = unet.conv_in(rows)
    skips = [x]
    for stage in unet.down:
        for j in range(len(stage.resblocks)):
            x = layer(stage, j, x, "down")
            skips.append(x)
        if stage.downsample is not None:
            x = stage.downsample(x)
            skips.append(x)
    x = residual(unet.mid.resblocks[1], layer(unet.mid, 0, x, "mid"), time, control, "mid")
    for stage in unet.up:
        for j in range(len(stage.resblocks)):
            x = layer(stage, j, torch.cat([x, skips.pop()], dim=1), "up")
        if stage.upsample is not None:
            x = stage.upsample(x)
    return unet.conv_out(F.silu(unet.norm_out(x)))


@torch.no_grad()
def released_swap(
    unet: nn.Module,
    noise: Tensor,
    nulls: Tensor,
    contexts: Tensor,
    control: Controller,
    blend: LocalBlend | None,
    prediction: str,
    guidance_scale: float = 7.5,
) -> Tensor:
    """The clean latents of source and target, (2 4 h w), after as many steps as there are null contexts.

    noise: (1 4 h w). nulls: (steps m c), the same for source and target. contexts: (2 m c). The released code knows
    prediction "eps" only; "v" is read as its definition says.
    """
    steps = len(nulls)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, dim=0).tolist()
    stride = 1000 // steps
    latents = torch.cat([noise, noise])
    for i in range(steps):
        t = (steps - 1 - i) * stride + 1
        a, a_prev = alpha_bar[t], alpha_bar[max(t - stride, 0)]
        null = torch.stack([nulls[i], nulls[i]])
        output = network(unet, torch.cat([latents, latents]), t, torch.cat([null, contexts]), control)
        output = output[:2] + guidance_scale * (output[2:] - output[:2])
        if prediction == "v":
            x0 = a**0.5 * latents - (1 - a) ** 0.5 * output
            eps = a**0.5 * output + (1 - a) ** 0.5 * latents
        else:
            x0, eps = (latents - (1 - a) ** 0.5 * output) / a**0.5, output
        latents = a_prev**0.5 * x0 + (1 - a_prev) ** 0.5 * eps
        if blend is not None:
            latents = blend(latents, control.sums)
    return latents
