"""The network that predicts noise: a U-Net with a transformer at its three finer levels and in the middle.

Latent diffusion (arXiv:2112.10752), section 3.3; the convolutional skeleton is DDPM's (arXiv:2006.11239). With two
blocks a level, as in Stable Diffusion, it has 16 pairs of attention layers, 6 going down, 1 in the middle, 9 going up,
and 22 residual blocks.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import PreparedContext
from models.blocks import Downsample, ResBlock, TimeEmbedding, Upsample, zeroed
from models.config import LEVELS, UNetConfig
from models.hooks import NO_HOOK, NO_HOOKS, Hooks, HookTable, Site
from models.transformer import Context, SpatialTransformer, TransformerBlock

NORM_EPS = 1e-5
PEAK = 20  # see UNet.held
OUTLINE_SCALE, OUTLINE_PLACES = 4, 16  # 16 x 16 places at 512 px; fewer a side are too coarse for an outline
TRAINING_TIMESTEPS = 1000  # of training (arXiv:2006.11239); what lies beyond was never seen


class Conditions(NamedTuple):
    """What every layer of one call is given. time: (b 4c). recompute: whether the backward pass runs blocks again."""

    time: Tensor
    context: Context
    hooks: Hooks
    recompute: bool


class Stage(nn.Module):
    """ResBlocks of one resolution on one side of the U, each followed by a transformer where the level has attention.

    inputs: channels that come into each ResBlock. width: channels that leave it. site: the address of the first layer.
    transformers: how many; each follows the ResBlock of its number.
    """

    def __init__(self, config: UNetConfig, inputs: Sequence[int], width: int, site: Site, transformers: int) -> None:
        super().__init__()
        self.feature_sites = tuple(site._replace(layer=j, kind="features") for j in range(len(inputs)))
        self.resblocks = nn.ModuleList(
            ResBlock(channels, width, config.groups, 4 * config.channels, NORM_EPS, zero=True) for channels in inputs
        )
        built = [
            SpatialTransformer(
                width,
                config.context_channels,
                config.heads_at(width),
                config.groups,
                site._replace(layer=j * config.depth),
                config.depth,
            )
            for j in range(transformers)
        ]
        self.transformers = nn.ModuleList(built)
        self.attention_sites = tuple(transformer.sites for transformer in built)

    def layer(self, j: int, x: Tensor, given: Conditions) -> Tensor:
        """ResBlock j and the transformer after it, if any."""
        site, hooks = self.feature_sites[j], given.hooks
        x = _run(given.recompute and site not in hooks, self.resblocks[j], x, given.time, hooks.get(site, NO_HOOK))
        if j < len(self.transformers):
            again = given.recompute and not any(own in hooks for own in self.attention_sites[j])
            x = _run(again, self.transformers[j], x, given.context, hooks)
        return x

    def sites(self) -> list[Site]:
        """The addresses of residual blocks and attention layers in execution order."""
        found: list[Site] = []
        for j, site in enumerate(self.feature_sites):
            found += [site, *(self.attention_sites[j] if j < len(self.attention_sites) else ())]
        return found


class DownStage(Stage):
    """The way down at one level, ending at half the sides but for the coarsest."""

    def __init__(self, config: UNetConfig, inputs: Sequence[int], width: int, site: Site, transformers: int) -> None:
        super().__init__(config, inputs, width, site, transformers)
        self.downsample: Downsample | None = None

    def forward(self, x: Tensor, given: Conditions) -> tuple[Tensor, list[Tensor]]:
        """What goes on down, and what every layer left for the way up."""
        skips = []
        for j in range(len(self.resblocks)):
            x = self.layer(j, x, given)
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        return x, skips


class MidStage(Stage):
    """The bottom of the U: ResBlock, transformer, ResBlock."""

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        for j in range(len(self.resblocks)):
            x = self.layer(j, x, given)
        return x


class UpStage(Stage):
    """The way up at one level, ending at twice the sides but for the finest."""

    def __init__(self, config: UNetConfig, inputs: Sequence[int], width: int, site: Site, transformers: int) -> None:
        super().__init__(config, inputs, width, site, transformers)
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor, skips: list[Tensor], given: Conditions) -> Tensor:
        """skips: what the way down left; each layer takes one from its end."""
        for j in range(len(self.resblocks)):
            # One ResBlock more than going down: a level also left what came into it, from conv_in or from the level
            # above, and the last ResBlock takes that. x before the skip: the order of the official weights' channels.
            x = self.layer(j, torch.cat([x, skips.pop()], dim=1), given)
        return x if self.upsample is None else self.upsample(x)


class UNet(nn.Module):
    """eps or v at timestep t of noisy latents, given a context.

    sites: the addresses of its attention layers in execution order, 32 for Stable Diffusion. feature_sites: those of
    its residual blocks, 22. all_sites: both, in execution order. gradient_checkpointing: recompute blocks in the
    backward pass instead of keeping their activations; those with hooks are kept, so that a hook fires once. body: runs
    `denoise`, or a compiled form of it (models/fast.py); a function of the network, so that copies keep it.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.body: Callable[..., Tensor] = UNet.denoise
        self.time_embedding = TimeEmbedding(config.channels)
        self.conv_in = nn.Conv2d(config.in_channels, config.channels, 3, padding=1)
        skips = [config.channels]
        self.down = nn.ModuleList(self._down(level, skips) for level in range(LEVELS))
        coarsest = config.widths[-1]
        self.mid = MidStage(config, [coarsest] * 2, coarsest, Site("mid", 0, 0, "self"), transformers=1)
        self.up = nn.ModuleList(self._up(block, skips) for block in range(LEVELS))
        self.norm_out = nn.GroupNorm(config.groups, config.channels, eps=NORM_EPS)
        self.conv_out = zeroed(nn.Conv2d(config.channels, config.out_channels, 3, padding=1))
        stages = [stage for stage in self.modules() if isinstance(stage, Stage)]
        self.all_sites: tuple[Site, ...] = tuple(site for stage in stages for site in stage.sites())
        self.sites = tuple(site for site in self.all_sites if site.kind != "features")
        self.feature_sites = tuple(site for site in self.all_sites if site.kind == "features")

    def forward(self, latents: Tensor, t: int | Tensor, context: Context, hooks: Hooks = NO_HOOKS) -> Tensor:
        """Predict the noise (or the velocity) in the latents.

        latents: (b c h w), h and w multiples of 8. t: training timesteps 0..999, one for all rows or one for each,
        (b,). context: (b m context_channels), from the text encoder, or what `prepare_context` made of it. hooks: what
        to watch or change in this call alone. Returns (b c h w).

        Raises ValueError for other shapes, for timesteps out of range (looked at only where that costs nothing: those
        on an accelerator are taken as they are), for a hook at an address not in `all_sites`, and for a hook that
        returns something of another shape, dtype or device.
        """
        self._check(latents, t, context)
        t = torch.as_tensor(t, device=latents.device).expand(latents.shape[0])
        return self.body(self, latents, t, context, self.prepare_hooks(hooks).checked if hooks else NO_HOOKS)

    def denoise(self, latents: Tensor, t: Tensor, context: Context, hooks: Hooks) -> Tensor:
        """What `forward` does once all is checked. t: (b,). hooks: checked."""
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        given = Conditions(self.time_embedding(t), context, hooks, recompute)
        x = self.conv_in(latents)
        skips = [x]
        for stage in self.down:
            x, left = stage(x, given)
            skips += left
        x = self.mid(x, given)
        for stage in self.up:
            x = stage(x, skips, given)
        return self.conv_out(F.silu(self.norm_out(x)))

    def prepare_hooks(self, hooks: Hooks) -> HookTable:
        """The table checked once, to be handed to many calls. Raises ValueError for an address not in `all_sites`."""
        if isinstance(hooks, HookTable) and hooks.sites == self.all_sites:
            return hooks
        return HookTable(hooks, self.all_sites)

    def prepare_context(self, context: Tensor, most: float = math.inf) -> PreparedContext:
        """The context's keys and values at every cross site, computed once for calls that share it, such as steps.

        context: (b m context_channels); calls then take b rows. most: how many elements may be kept; where that is too
        few for all sites, those of the narrowest layers are, and the others make theirs in each call. A call with the
        result equals one with the context, bit for bit, as long as no weight changes in between.
        """
        self._check_context(context, context.shape[0])
        blocks = [block for block in self.modules() if isinstance(block, TransformerBlock)]
        keys_values = {}
        for block in sorted(blocks, key=lambda block: block.attn2.to_k.out_features):
            most -= 2 * context.shape[0] * context.shape[1] * block.attn2.to_k.out_features
            if most >= 0:
                keys_values[block.cross_site] = block.attn2.keys_values(context)
        return PreparedContext(keys_values, context, self.sites)

    def held(self, size: tuple[int, int]) -> int:
        """How many elements a call without gradients or hooks holds at its highest, for each row of latents (h, w).

        That is on the way up, in the feed-forward layer of the finest attention level, and measured: 12 of what leaves
        such a layer are in the layer, 5 around it, 2 were upsampled, and 1 is what the way up has yet to take.
        """
        finest = min(self.config.attention_levels)
        h, w = (side // 2**finest for side in size)
        return PEAK * self.config.widths[finest] * h * w

    def outline_scale(self, h: int, w: int) -> int:
        """The scale of the layers whose maps outline what a word means, for latents of h x w.

        The published one, 4 (Prompt-to-Prompt's local blend and all that came after it), or the next finer one with at
        least 16 places a side.
        """
        scales = {site.scale for site in self.sites if site.kind == "cross" and site.scale <= OUTLINE_SCALE}
        fine = [scale for scale in scales if min(h, w) // scale >= OUTLINE_PLACES]
        return max(fine) if fine else min(scales)

    def _down(self, level: int, skips: list[int]) -> DownStage:
        config, width = self.config, self.config.widths[level]
        inputs = [skips[-1]] + [width] * (config.res_blocks - 1)
        attention = len(inputs) if level in config.attention_levels else 0
        stage = DownStage(config, inputs, width, Site("down", level, 0, "self"), attention)
        skips.extend([width] * len(inputs))
        if level < LEVELS - 1:
            stage.downsample = Downsample(width)
            skips.append(width)
        return stage

    def _up(self, block: int, skips: list[int]) -> UpStage:
        config, level = self.config, LEVELS - 1 - block
        width = config.widths[level]
        # the first ResBlock gets what comes up from the level below, which is as wide as that level; then its own width
        below = config.widths[min(level + 1, LEVELS - 1)]
        inputs = [(below if j == 0 else width) + skips.pop() for j in range(config.res_blocks + 1)]
        attention = len(inputs) if level in config.attention_levels else 0
        stage = UpStage(config, inputs, width, Site("up", block, 0, "self"), attention)
        if level > 0:
            stage.upsample = Upsample(width)
        return stage

    def _check(self, latents: Tensor, t: int | Tensor, context: Context) -> None:
        config, multiple = self.config, 2 ** (LEVELS - 1)
        sides_fit = latents.dim() == 4 and latents.shape[2] % multiple == 0 and latents.shape[3] % multiple == 0
        if not sides_fit or latents.shape[1] != config.in_channels:
            alone = sides_fit and latents.shape[1] == config.out_channels
            raise ValueError(
                f"latents are {tuple(latents.shape)}; this U-Net wants (b, {config.in_channels}, h, w) with h and w "
                f"multiples of {multiple}: "
                + (
                    "it paints inside a mask, and is given a picture beside the latents (models/inpainting.py)"
                    if alone
                    else "crop or resize the picture first"
                )
            )
        _check_timesteps(t, latents.shape[0])
        self._check_context(context, latents.shape[0])

    def _check_context(self, context: Context, rows: int) -> None:
        shape = tuple(context.shape)
        if len(shape) != 3 or shape[0] != rows or shape[2] != self.config.context_channels:
            raise ValueError(
                f"context is {shape}; this U-Net wants ({rows}, 77, {self.config.context_channels}), "
                "a row for each row of latents: was it encoded with another text encoder?"
            )
        if isinstance(context, PreparedContext) and context.sites != self.sites:
            raise ValueError("the context was prepared by a U-Net with other sites: call this one's prepare_context")


def _check_timesteps(t: int | Tensor, rows: int) -> None:
    if isinstance(t, Tensor):
        if t.dim() > 1 or (t.dim() == 1 and t.shape[0] != rows):
            raise ValueError(f"t is {tuple(t.shape)}; wanted one timestep, or one for each of {rows} rows")
        if t.device.type != "cpu" or t.numel() == 0 or torch.compiler.is_compiling():
            return  # looking would wait for the device, or break a graph
        lowest, highest = t.min().item(), t.max().item()
    else:
        lowest = highest = t
    if not 0 <= lowest <= highest < TRAINING_TIMESTEPS:
        found = str(lowest) if lowest == highest else f"{lowest} to {highest}"
        raise ValueError(
            f"t is {found}; wanted training timesteps 0 to {TRAINING_TIMESTEPS - 1}: "
            "a sampling step's own timestep is in its schedule"
        )


def _run(recompute: bool, module: nn.Module, *inputs: object) -> Tensor:
    return checkpoint(module, *inputs, use_reentrant=False) if recompute else module(*inputs)
