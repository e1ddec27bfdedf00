"""The numbers of each checkpoint, as frozen dataclasses whose defaults are Stable Diffusion 2.1.

Sources: the configuration files published with latent diffusion (arXiv:2112.10752) and Stable Diffusion 1.5, 2.1-base,
2.1 and what paints, and Paint by Example; `MINIATURE` has the structure of SD 2.1 at widths that a laptop trains.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from samplers.schedule import Schedule

LEVELS = 4  # resolutions of the U-Net; a Site's scale is counted with it


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True)
class UNetConfig:
    """Width and attention of the noise predictor.

    in_channels: the latents' own, or 9 where the network paints inside a mask: the latents, and in an order of the
    model's (models/inpainting.py) the mask and the latents of the picture without what the mask covers.
    channels x multipliers[i] is the width of level i, each level half the side of the one before. Attention sits at
    `attention_levels` and in the middle. Either every head is `head_channels` wide (SD 2.x) or every layer has `heads`
    heads (SD 1.x). depth: transformer blocks in each
    transformer. linear_projection: the published transformers enter and leave through Linear layers (SD 2.x) or 1x1
    convolutions (SD 1.x); the two compute the same, here always Linear.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    head_channels: int | None = 64
    heads: int | None = None
    context_channels: int = 1024
    groups: int = 32
    depth: int = 1
    linear_projection: bool = True

    def __post_init__(self) -> None:
        _require(
            len(self.multipliers) == LEVELS,
            f"multipliers is {self.multipliers}; the U-Net has {LEVELS} levels: give one multiplier for each",
        )
        _require(
            set(self.attention_levels) <= set(range(LEVELS)),
            f"attention_levels is {self.attention_levels}; levels are 0..{LEVELS - 1}",
        )
        _require(
            (self.head_channels is None) != (self.heads is None),
            f"head_channels is {self.head_channels} and heads is {self.heads}; give exactly one, the other is None",
        )
        unit = self.head_channels or self.heads or 1
        for width in self.widths:
            _require(width % self.groups == 0, f"a level is {width} wide, not a multiple of groups={self.groups}")
            _require(width % unit == 0, f"a level is {width} wide, which does not split into heads by {unit}")
        _require(self.channels % 2 == 0, f"channels is {self.channels}; the timestep embedding wants it even")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, finest first."""
        return tuple(self.channels * m for m in self.multipliers)

    def heads_at(self, width: int) -> int:
        """Heads of an attention layer that is `width` channels wide."""
        return self.heads if self.heads is not None else width // (self.head_channels or width)


@dataclass(frozen=True)
class VAEConfig:
    """Width of the autoencoder; `scale_factor` brings its latents to about unit variance (arXiv:2112.10752, app. G)."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    latent_channels: int = 4
    groups: int = 32
    scale_factor: float = 0.18215

    def __post_init__(self) -> None:
        for width in self.widths:
            _require(width % self.groups == 0, f"a level is {width} wide, not a multiple of groups={self.groups}")
        _require(self.scale_factor > 0, f"scale_factor is {self.scale_factor}; it must be positive")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, finest first."""
        return tuple(self.channels * m for m in self.multipliers)

    @property
    def factor(self) -> int:
        """How many pixels one side of a latent stands for (8 in every published checkpoint)."""
        return 2 ** (len(self.multipliers) - 1)


@dataclass(frozen=True)
class TextConfig:
    """The CLIP text transformer (arXiv:2103.00020).

    layers: how many run; stored_layers: how many the published file holds (SD 2.x conditions on the penultimate one).
    activation: exact GELU (OpenCLIP, SD 2.x) or x sigmoid(1.702 x) (OpenAI's CLIP, SD 1.x). padding: what fills a
    prompt up to `length`: token 0 (SD 2.x) or the end-of-text token (SD 1.x).
    """

    vocabulary: int = 49408
    width: int = 1024
    heads: int = 16
    layers: int = 23
    stored_layers: int = 24
    length: int = 77
    mlp_ratio: int = 4
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    padding: Literal["zero", "eot"] = "zero"

    def __post_init__(self) -> None:
        _require(self.width % self.heads == 0, f"width {self.width} does not split into {self.heads} heads")
        _require(
            1 <= self.layers <= self.stored_layers,
            f"layers is {self.layers}; between 1 and stored_layers={self.stored_layers} can run",
        )
        _require(
            self.activation in ("gelu", "quick_gelu"),
            f"activation is {self.activation!r}; use 'gelu' or 'quick_gelu'",
        )
        _require(self.padding in ("zero", "eot"), f"padding is {self.padding!r}; use 'zero' or 'eot'")


@dataclass(frozen=True)
class VisionConfig:
    """CLIP's image tower (arXiv:2103.00020) and the mapper behind it (Paint by Example, arXiv:2211.13227, section 3.2).

    width, heads, layers, mlp_ratio, activation: of the tower, ViT-L/14 here. size: side in pixels of the pictures it
    sees; patch: side of the squares they are cut into. mapper_blocks, mapper_heads: of the mapper, as wide as the
    tower. context_channels: width of the one token that comes out.
    """

    width: int = 1024
    heads: int = 16
    layers: int = 24
    size: int = 224
    patch: int = 14
    mlp_ratio: int = 4
    activation: Literal["gelu", "quick_gelu"] = "quick_gelu"
    mapper_blocks: int = 5
    mapper_heads: int = 1
    context_channels: int = 768

    def __post_init__(self) -> None:
        for heads in (self.heads, self.mapper_heads):
            _require(self.width % heads == 0, f"width {self.width} does not split into {heads} heads")
        _require(self.size % self.patch == 0, f"size {self.size} does not split into patches of {self.patch}")
        _require(
            self.activation in ("gelu", "quick_gelu"),
            f"activation is {self.activation!r}; use 'gelu' or 'quick_gelu'",
        )


@dataclass(frozen=True)
class DiffusionConfig:
    """What every checkpoint has, whatever its context is made of: U-Net, autoencoder and noise.

    noise: the noise the U-Net was trained with; nothing else says it. Its class belongs to the samplers, which is why
    this file, and no other here, imports from them. native_size: side in pixels of the pictures it was trained on.
    granularity: sides of pictures must be multiples of it, so that every level of the U-Net is half the one before.
    """

    name: str = "sd21"
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    noise: Schedule = field(default_factory=Schedule)
    native_size: int = 768
    granularity: int = 64

    def __post_init__(self) -> None:
        _require(
            self.unet.out_channels == self.vae.latent_channels,
            f"the U-Net predicts {self.unet.out_channels} channels; latents have {self.vae.latent_channels}",
        )
        latents = self.vae.latent_channels
        _require(
            self.unet.in_channels in (latents, 2 * latents + 1),
            f"the U-Net takes {self.unet.in_channels} channels; want {latents}, the latents, or {2 * latents + 1}, "
            "with a mask and the latents of what it leaves of a picture",
        )
        step = self.vae.factor * 2 ** (LEVELS - 1)
        _require(
            self.granularity % step == 0,
            f"granularity is {self.granularity}; the levels of the VAE and the U-Net ask for a multiple of {step}",
        )
        _require(
            self.native_size % self.granularity == 0,
            f"native_size {self.native_size} is no multiple of granularity {self.granularity}",
        )

    @property
    def paints(self) -> bool:
        """Whether the U-Net is given a mask and what it leaves of a picture beside the latents."""
        return self.unet.in_channels != self.vae.latent_channels


@dataclass(frozen=True)
class ModelConfig(DiffusionConfig):
    """Everything that tells one checkpoint whose context is text from another."""

    text: TextConfig = field(default_factory=TextConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.unet.context_channels == self.text.width,
            f"the U-Net wants context {self.unet.context_channels} wide; the text encoder gives {self.text.width}",
        )

    @property
    def conditioner(self) -> TextConfig:
        """The numbers of the network that makes the context."""
        return self.text


@dataclass(frozen=True)
class PaintConfig(DiffusionConfig):
    """Everything of a checkpoint that paints what one picture shows into another: its context is the first picture.

    The defaults are Paint by Example's (its configs/v1.yaml), whose U-Net and autoencoder are those of SD 1.5 but for
    the nine input channels.
    """

    name: str = "paint-by-example"
    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            in_channels=9, head_channels=None, heads=8, context_channels=768, linear_projection=False
        )
    )
    noise: Schedule = field(default_factory=lambda: Schedule(prediction="eps"))
    native_size: int = 512
    image: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.unet.context_channels == self.image.context_channels,
            f"the U-Net wants context {self.unet.context_channels} wide; the image encoder gives "
            f"{self.image.context_channels}",
        )
        _require(self.paints, f"the U-Net takes {self.unet.in_channels} channels; one that paints takes nine")

    @property
    def conditioner(self) -> VisionConfig:
        """The numbers of the network that makes the context."""
        return self.image


AnyConfig = ModelConfig | PaintConfig

SD21 = ModelConfig()
SD21_BASE = ModelConfig(name="sd21-base", noise=Schedule(prediction="eps"), native_size=512)
SD15 = ModelConfig(
    name="sd15",
    unet=UNetConfig(head_channels=None, heads=8, context_channels=768, linear_projection=False),
    text=TextConfig(width=768, heads=12, layers=12, stored_layers=12, activation="quick_gelu", padding="eot"),
    noise=Schedule(prediction="eps"),
    native_size=512,
)
SD2_INPAINTING = replace(SD21_BASE, name="sd2-inpainting", unet=replace(SD21_BASE.unet, in_channels=9))
SD15_INPAINTING = replace(SD15, name="sd15-inpainting", unet=replace(SD15.unet, in_channels=9))
PAINT_BY_EXAMPLE = PaintConfig()
MINIATURE = ModelConfig(
    name="miniature",
    unet=UNetConfig(channels=32, head_channels=16, context_channels=64, groups=8),
    vae=VAEConfig(channels=16, res_blocks=2, groups=8),
    text=TextConfig(width=64, heads=4, layers=3, stored_layers=4),
    native_size=128,
)
MODELS: dict[str, AnyConfig] = {
    config.name: config
    for config in (MINIATURE, SD21, SD21_BASE, SD15, SD2_INPAINTING, SD15_INPAINTING, PAINT_BY_EXAMPLE)
}
