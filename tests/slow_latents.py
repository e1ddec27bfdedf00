"""The methods that act on latents once more, slow and obvious, to hold ours against.

Written from descriptions of what the released codes do, with arithmetic of their own: the noise levels, DDIM and
guidance are here again, every attention map is built by oracle.py's walk through the U-Net, and masks are compared
place by place. draw() gives the noise, one call after another in the order in which the methods are described.
"""

import math
from collections.abc import Callable

import torch
from oracle import Controller, network
from torch import Tensor, nn

Draw = Callable[[], Tensor]


class Still(Controller):
    """Changes nothing."""

    def change(self, maps: Tensor, is_cross: bool) -> Tensor:
        return maps


class Slow:
    """A network, a prompt for each row, and the levels of so many steps. contexts, nulls: (rows m c)."""

    def __init__(self, unet: nn.Module, steps: int, prediction: str, contexts: Tensor, null: Tensor) -> None:
        self.unet, self.steps, self.prediction, self.contexts, self.null = unet, steps, prediction, contexts, null
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alpha_bar = torch.cumprod(1 - betas, dim=0).tolist()
        stride = 1000 // steps
        self.times = [(steps - 1 - i) * stride + 1 for i in range(steps)]
        self.levels = [alpha_bar[t] for t in self.times]
        self.nexts = [alpha_bar[max(t - stride, 0)] for t in self.times]
        self.control = Still(unet, steps, (16, 16), None, {"A": 0, "phi": -1, "M": 0})

    def eps(self, latents: Tensor, i: int, row: int, scale: float) -> Tensor:
        """The guided noise estimate under one prompt."""
        contexts = torch.cat([self.null, self.contexts[row : row + 1]])
        rows = torch.cat([latents, latents])
        uncond, cond = network(self.unet, rows, self.times[i], contexts, self.control).chunk(2)
        return self.as_eps(uncond + scale * (cond - uncond), latents, i)

    def as_eps(self, output: Tensor, latents: Tensor, i: int) -> Tensor:
        a = self.levels[i]
        return output if self.prediction == "eps" else a**0.5 * output + (1 - a) ** 0.5 * latents

    def ddim(self, latents: Tensor, eps: Tensor, i: int) -> Tensor:
        a, b = self.levels[i], self.nexts[i]
        return b**0.5 * (latents - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps

    def noised(self, clean: Tensor, i: int, noise: Tensor) -> Tensor:
        return self.levels[i] ** 0.5 * clean + (1 - self.levels[i]) ** 0.5 * noise


@torch.no_grad()
def plain(slow: Slow, noise: Tensor, scale: float = 7.5) -> Tensor:
    for i in range(slow.steps):
        noise = slow.ddim(noise, slow.eps(noise, i, 1, scale), i)
    return noise


@torch.no_grad()
def sdedit(slow: Slow, clean: Tensor, draw: Draw, t0: float = 0.5, scale: float = 7.5) -> Tensor:
    first = slow.steps - int(slow.steps * t0)
    latents = slow.noised(clean, first, draw())
    for i in range(first, slow.steps):
        latents = slow.ddim(latents, slow.eps(latents, i, 1, scale), i)
    return latents


@torch.no_grad()
def diffedit(
    slow: Slow,
    inverted: Tensor,
    draw: Draw,
    maps: int = 10,
    encode: float = 0.5,
    ratio: float = 3.0,
    strength: float = 0.8,
    threshold: float = 0.5,
    scale: float = 7.5,
) -> tuple[Tensor, Tensor]:
    """The target's latents, and the mask. inverted: the source, noise first, clean latents last, (steps + 1 4 h w)."""
    clean, at, total = inverted[-1:], slow.steps - int(slow.steps * encode), 0.0
    for _ in range(maps):
        noised = slow.noised(clean, at, draw())
        total = total + (slow.eps(noised, at, 1, scale) - slow.eps(noised, at, 0, scale)).abs()
    heat = (total / maps).mean(dim=1)[0]
    ceiling = ratio * heat.mean()
    mask = torch.tensor([[float(min(x, ceiling) / ceiling > threshold) for x in row] for row in heat])
    first = slow.steps - int(slow.steps * strength)
    latents = inverted[first : first + 1]
    for i in range(first, slow.steps):
        latents = slow.ddim(latents, slow.eps(latents, i, 1, scale), i)
        latents = latents * mask + inverted[i + 1] * (1 - mask)
    return latents, mask


@torch.no_grad()
def blended(slow: Slow, clean: Tensor, mask: Tensor, draw: Draw, start: float = 0.25, behind: int = 0) -> Tensor:
    """behind: 1 would noise the background to where the step leads, not to where it came from."""
    latents = draw()
    for i in range(int(slow.steps * start), slow.steps):
        latents = slow.ddim(latents, slow.eps(latents, i, 1, 7.5), i)
        level = slow.nexts[i] if behind else slow.levels[i]
        ground = level**0.5 * clean + (1 - level) ** 0.5 * draw()
        latents = latents * mask + ground * (1 - mask)
    return latents


class SlowShares(Controller):
    """Inversion-free attention over uncond source, uncond target, cond source, cond target; columns as the oracle's."""

    def __init__(self, unet: nn.Module, steps: int, columns: list[int], cross: float, self_: float) -> None:
        super().__init__(unet, steps, (16, 16), None, {"A": 0, "phi": -1, "M": 0})
        self.columns, self.cross, self.self_ = columns, cross, self_

    def change(self, maps: Tensor, is_cross: bool) -> Tensor:
        done = (self.cur_step + 1) / self.steps
        if is_cross and self.cross >= done:
            columns = [maps[3][..., j] if i < 0 else maps[2][..., i] for j, i in enumerate(self.columns)]
            return torch.stack([maps[0], maps[1], maps[2], torch.stack(columns, dim=-1)])
        return maps[[0, 0, 2, 2]] if not is_cross and self.self_ > done else maps


@torch.no_grad()
def inversion_free(
    slow: Slow, clean: Tensor, draw: Draw, control: Controller, scales=(1.0, 2.3), eta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The latents of source and target."""
    source = target = draw()
    contexts = torch.cat([slow.null, slow.null, slow.contexts[:2]])
    for i in range(slow.steps):
        a, b = slow.levels[i], slow.nexts[i]
        rows = torch.cat([source, target, source, target])
        output = network(slow.unet, rows, slow.times[i], contexts, control)
        eps = [
            slow.as_eps(output[j : j + 1] + scale * (output[2 + j : 3 + j] - output[j : j + 1]), z, i)
            for j, (scale, z) in enumerate(zip(scales, (source, target), strict=True))
        ]
        # each row's x0, and the source's error taken off the target's
        x0_source, x0_target = ((z - (1 - a) ** 0.5 * e) / a**0.5 for z, e in zip((source, target), eps, strict=True))
        x0 = x0_target + clean - x0_source
        if i == slow.steps - 1:
            return clean, x0
        truth = (source - a**0.5 * clean) / (1 - a) ** 0.5
        along = math.sqrt((1 - b) * (1 - eta)) * (eps[1] - eps[0] + truth)
        fresh = math.sqrt((1 - b) * eta) * draw()
        source, target = b**0.5 * clean + along + fresh, b**0.5 * x0 + along + fresh
    raise AssertionError("no steps")


class SlowReference(Controller):
    """Rows uncond source, uncond target, cond source, cond target, uncond reference, cond reference.

    masks: of source, target and reference on the grid of the latents, (h w) of 0 and 1.
    """

    def __init__(self, unet: nn.Module, steps: int, masks, share: float, start: int, layer: int) -> None:
        super().__init__(unet, steps, (16, 16), None, {"A": 0, "phi": -1, "M": 0})
        self.masks, self.ends, self.start, self.layer = masks, int(steps * share), start, layer

    def attend(self, q, k, v, is_cross, place):
        heads = [look(q[i], k[i], v[i]) for i in range(6)]
        early, late = self.cur_step < self.ends, self.cur_step >= self.start and self.cur_layer // 2 >= self.layer
        if not is_cross and (early or late):
            times = round(math.sqrt(self.masks[0].numel() / q.shape[2]))
            source, target, reference = (mask[::times, ::times].flatten().bool() for mask in self.masks)
            for i, s, r in ((1, 0, 4), (3, 2, 5)):
                subject = look(q[r] if early else q[i], k[r], v[r], reference)
                ground = look(q[s] if early else q[i], k[s], v[s], ~source)
                heads[i] = torch.where(target[:, None], subject, ground)
        self.count()
        return torch.stack(heads)


def look(q: Tensor, k: Tensor, v: Tensor, places: Tensor | None = None) -> Tensor:
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    logits = logits if places is None else logits.masked_fill(~places, -math.inf)
    return torch.softmax(logits, dim=-1) @ v


@torch.no_grad()
def reference_attention(slow: Slow, sources: Tensor, references: Tensor, control: Controller) -> Tensor:
    """The target's latents. sources, references: where these stand before each step, (steps 4 h w)."""
    latents, contexts = sources[:1], slow.contexts
    every = torch.cat([slow.null, slow.null, contexts[:2], slow.null, contexts[2:]])
    for i in range(slow.steps):
        s, r = sources[i : i + 1], references[i : i + 1]
        output = network(slow.unet, torch.cat([s, latents, s, latents, r, r]), slow.times[i], every, control)
        eps = slow.as_eps(output[1:2] + 7.5 * (output[3:4] - output[1:2]), latents, i)
        latents = slow.ddim(latents, eps, i)
    return latents
