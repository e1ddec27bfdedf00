"""The methods beside Photoswap once more, slow and obvious, to hold ours against.

Written from descriptions of what the released codes do, on oracle.py's own walk through the U-Net: every map is built,
and a controller that counts calls changes what it is shown. Rows are uncond source, uncond target, cond source, cond
target, but for Plug-and-Play, whose three are the source told nothing, and the target's uncond and cond.
"""

import math

import torch
from oracle import Controller, network
from torch import Tensor, nn


class SlowPromptToPrompt(Controller):
    """pairs: for each of the target's columns, (share, source's column) of what it takes, None for its own."""

    def __init__(self, unet, steps, size, pairs, cross, self_, equalizer=()):
        super().__init__(unet, steps, size, None, {"A": 0, "phi": -1, "M": 0})
        self.pairs, self.self_ends, self.equalizer = pairs, int(steps * self_), dict(equalizer)
        self.alphas = [1.0] * int(cross * (steps + 1)) + [0.0] * (steps + 1)

    def change(self, maps: Tensor, is_cross: bool) -> Tensor:
        source, target = maps[2], maps[3]
        if is_cross:
            columns = [
                target[..., j] if found is None else sum(share * source[..., i] for share, i in found)
                for j, found in enumerate(self.pairs)
            ]
            columns = [torch.zeros_like(target[..., 0]) if isinstance(c, int) else c for c in columns]
            edited = torch.stack([self.equalizer.get(j, 1.0) * c for j, c in enumerate(columns)], dim=-1)
            alpha = self.alphas[self.cur_step]
            target = alpha * edited + (1 - alpha) * target
        elif self.cur_step < self.self_ends and maps.shape[2] <= 32**2:
            target = source
        return torch.stack([maps[0], maps[1], source, target])


class SlowMap(Controller):
    """Free-Prompt-Editing: the source's M in the conditional half."""

    def __init__(self, unet, steps, size, share):
        super().__init__(unet, steps, size, None, {"A": 0, "phi": -1, "M": 0})
        self.ends = int(steps * share)

    def change(self, maps: Tensor, is_cross: bool) -> Tensor:
        swapped = not is_cross and self.cur_step < self.ends and maps.shape[2] <= 32**2
        return maps[[0, 1, 2, 2]] if swapped else maps


class SlowMasaCtrl(Controller):
    """Mutual self-attention. masks: of source and target on the grid of the latents, (h w) of 0 and 1, or None."""

    def __init__(self, unet, steps, size, start, layer, union=False, masks=None):
        super().__init__(unet, steps, size, None, {"A": 0, "phi": -1, "M": 0})
        self.start, self.layer, self.union, self.masks = start, layer, union, masks

    def attend(self, q, k, v, is_cross, place):
        mutual = not is_cross and self.cur_step >= self.start and self.cur_layer // 2 >= self.layer
        heads = [softmax(q[i], k[i]) @ v[i] for i in range(4)]
        if mutual:
            heads[1], heads[3] = (self.look(q[i], k[i - 1 : i + 1], v[i - 1 : i + 1]) for i in (1, 3))
        self.count()
        return torch.stack(heads)

    def look(self, q, k, v):
        """One target row, at the source's keys and values k[0], v[0]."""
        if self.union:
            return softmax(q, torch.cat([k[1], k[0]], dim=1)) @ torch.cat([v[1], v[0]], dim=1)
        if self.masks is None:
            return softmax(q, k[0]) @ v[0]
        times = round(math.sqrt(self.masks[0].numel() / q.shape[1]))
        source, target = (mask[::times, ::times].flatten().bool() for mask in self.masks)
        subject, ground = (softmax(q, k[0], places) @ v[0] for places in (source, ~source))
        return torch.where(target[:, None], subject, ground)


def softmax(q: Tensor, k: Tensor, places: Tensor | None = None) -> Tensor:
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    return torch.softmax(logits if places is None else logits.masked_fill(~places, -math.inf), dim=-1)


class SlowPlugAndPlay(Controller):
    """first: the number of the first self-attention layer, block: of the residual block, in execution order."""

    def __init__(self, unet, steps, size, attention, features, first, block):
        super().__init__(unet, steps, size, None, {"A": 0, "phi": -1, "M": 0})
        self.attention_ends, self.features_end = int(steps * attention), int(steps * features)
        self.first, self.block, self.blocks = first, block, 0

    def attend(self, q, k, v, is_cross, place):
        if not is_cross and self.cur_step < self.attention_ends and self.cur_layer // 2 >= self.first:
            q, k = q[[0, 0, 0]], k[[0, 0, 0]]
        heads = torch.stack([softmax(q[i], k[i]) @ v[i] for i in range(3)])
        self.count()
        return heads

    def features(self, x, place):
        injected = self.blocks == self.block and self.cur_step < self.features_end
        self.blocks += 1
        return x[[0, 0, 0]] if injected else x

    def between_steps(self):
        self.blocks = 0


@torch.no_grad()
def plug_and_play(unet: nn.Module, stored: Tensor, contexts: Tensor, control: Controller, prediction: str) -> Tensor:
    """The target's clean latents. stored: the source before each step, (steps 4 h w). contexts: (3 m c)."""
    steps = len(stored)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, dim=0).tolist()
    latents = stored[:1]
    for i in range(steps):
        control.blocks = 0
        t = (steps - 1 - i) * (1000 // steps) + 1
        a, b = alpha_bar[t], alpha_bar[max(t - 1000 // steps, 0)]
        output = network(unet, torch.cat([stored[i : i + 1], latents, latents]), t, contexts, control)
        output = output[1:2] + 7.5 * (output[2:] - output[1:2])
        if prediction == "v":
            x0, eps = a**0.5 * latents - (1 - a) ** 0.5 * output, a**0.5 * output + (1 - a) ** 0.5 * latents
        else:
            x0, eps = (latents - (1 - a) ** 0.5 * output) / a**0.5, output
        latents = b**0.5 * x0 + (1 - b) ** 0.5 * eps
    return latents
