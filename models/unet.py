"""The network that predicts noise: a U-Net with a transformer at its three finer levels and in the middle.

Latent diffusion (arXiv:2112.10752), section 3.3; the convolutional skeleton is DDPM's (arXiv:2006.11239). With two
blocks a level, as in Stable Diffusion, it has 16 pairs of attention layers: 6 going down, 1 in the middle, 9 going up.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.blocks import Downsample, ResBlock, TimeEmbedding, Upsample, zeroed
from models.config import LEVELS, UNetConfig
from models.hooks import NO_HOOKS, Hooks, Site, check_addresses
from models.transformer import SpatialTransformer, TransformerBlock

NORM_EPS = 1e-5


class Stage(nn.Module):
    """The layers of one resolution on one side of the U, in execution order; `UNet.forward` runs them.

    inputs: channels that come into each ResBlock. transformers: how many; each follows the ResBlock of its number.
    """

    def __init__(self, config: UNetConfig, inputs: Sequence[int], width: int, site: Site, transformers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResBlock(channels, width, config.groups, 4 * config.channels, norm_eps=NORM_EPS, zero=True)
            for channels in inputs
        )
        self.transformers = nn.ModuleList(
            SpatialTransformer(
                width,
                config.context_channels,
                config.heads_at(width),
                config.groups,
                site._replace(layer=j * config.depth),
                config.depth,
            )
            for j in range(transformers)
        )
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None


class UNet(nn.Module):
    """eps or v at timestep t of noisy latents, given a context.

    sites: the addresses of its attention layers in execution order, 32 for Stable Diffusion. gradient_checkpointing:
    recompute blocks in the backward pass instead of keeping their activations; calls with hooks ignore it, so that a
    hook fires once.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.time_embedding = TimeEmbedding(config.channels)
        self.conv_in = nn.Conv2d(config.in_channels, config.channels, 3, padding=1)
        skips = [config.channels]
        self.down = nn.ModuleList(self._down(level, skips) for level in range(LEVELS))
        coarsest = config.widths[-1]
        self.mid = Stage(config, [coarsest] * 2, coarsest, Site("mid", 0, 0, "self"), transformers=1)
        self.up = nn.ModuleList(self._up(block, skips) for block in range(LEVELS))
        self.norm_out = nn.GroupNorm(config.groups, config.channels, eps=NORM_EPS)
        self.conv_out = zeroed(nn.Conv2d(config.channels, config.out_channels, 3, padding=1))
        blocks = [module for module in self.modules() if isinstance(module, TransformerBlock)]
        self.sites: tuple[Site, ...] = tuple(s for block in blocks for s in (block.self_site, block.cross_site))

    def forward(self, latents: Tensor, t: int | Tensor, context: Tensor, hooks: Hooks = NO_HOOKS) -> Tensor:
        """Predict the noise (or the velocity) in the latents.

        latents: (b c h w), h and w multiples of 8. t: training timesteps, one for all rows or one for each, (b,).
        context: (b m context_channels), from the text encoder. hooks: what to watch or change in this call alone.
        Returns (b c h w). Raises ValueError for other shapes, for a hook at an address not in `sites`, and for a hook
        that returns something of another shape.
        """
        self._check(latents, context)
        if hooks:
            check_addresses(hooks, self.sites)
        time = self.time_embedding(self._timesteps(t, latents))
        x = self.conv_in(latents)
        skips = [x]
        stage: Any  # a ModuleList forgets that it holds Stages
        for stage in self.down:
            for j in range(len(stage.resblocks)):
                x = self._layer(stage, j, x, time, context, hooks)
                skips.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
                skips.append(x)
        x = self._layer(self.mid, 0, x, time, context, hooks)
        x = self._layer(self.mid, 1, x, time, context, hooks)
        for stage in self.up:
            for j in range(len(stage.resblocks)):
                x = self._layer(stage, j, torch.cat([x, skips.pop()], dim=1), time, context, hooks)
            if stage.upsample is not None:
                x = stage.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))

    def _layer(self, stage: Any, j: int, x: Tensor, time: Tensor, context: Tensor, hooks: Hooks) -> Tensor:
        x = self._run(hooks, stage.resblocks[j], x, time)
        return self._run(hooks, stage.transformers[j], x, context, hooks) if j < len(stage.transformers) else x

    def _run(self, hooks: Hooks, module: nn.Module, *inputs: Any) -> Tensor:
        if self.gradient_checkpointing and not hooks and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)

    def _down(self, level: int, skips: list[int]) -> Stage:
        config, width = self.config, self.config.widths[level]
        inputs = [skips[-1]] + [width] * (config.res_blocks - 1)
        attention = len(inputs) if level in config.attention_levels else 0
        stage = Stage(config, inputs, width, Site("down", level, 0, "self"), attention)
        skips.extend([width] * len(inputs))
        if level < LEVELS - 1:
            stage.downsample = Downsample(width)
            skips.append(width)
        return stage

    def _up(self, block: int, skips: list[int]) -> Stage:
        config, level = self.config, LEVELS - 1 - block
        width = config.widths[level]
        below = config.widths[min(level + 1, LEVELS - 1)]
        inputs = [(below if j == 0 else width) + skips.pop() for j in range(config.res_blocks + 1)]
        attention = len(inputs) if level in config.attention_levels else 0
        stage = Stage(config, inputs, width, Site("up", block, 0, "self"), attention)
        if level > 0:
            stage.upsample = Upsample(width)
        return stage

    def _check(self, latents: Tensor, context: Tensor) -> None:
        config, multiple = self.config, 2 ** (LEVELS - 1)
        sides_fit = latents.dim() == 4 and latents.shape[2] % multiple == 0 and latents.shape[3] % multiple == 0
        if not sides_fit or latents.shape[1] != config.in_channels:
            raise ValueError(
                f"latents are {tuple(latents.shape)}; this U-Net wants (b, {config.in_channels}, h, w) with h and w "
                f"multiples of {multiple}: crop or resize the picture first"
            )
        if context.dim() != 3 or context.shape[0] != latents.shape[0] or context.shape[2] != config.context_channels:
            raise ValueError(
                f"context is {tuple(context.shape)}; this U-Net wants ({latents.shape[0]}, 77, "
                f"{config.context_channels}), a row for each row of latents: was it encoded with another text encoder?"
            )

    def _timesteps(self, t: int | Tensor, latents: Tensor) -> Tensor:
        steps = torch.as_tensor(t, device=latents.device)
        if steps.dim() > 1 or (steps.dim() == 1 and steps.shape[0] != latents.shape[0]):
            raise ValueError(
                f"t is {tuple(steps.shape)}; wanted one timestep, or one for each of {latents.shape[0]} rows"
            )
        return steps.expand(latents.shape[0])
