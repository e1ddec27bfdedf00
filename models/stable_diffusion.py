"""The networks of latent diffusion (arXiv:2112.10752, figure 3) as one value, and the doors between them.

Two of them every model has, the U-Net and the autoencoder; what makes the U-Net's context is the third. Here it is a
text encoder; in models/paint_by_example.py it is one of pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from models.config import AnyConfig, ModelConfig, Schedule
from models.identity import Identity
from models.inpainting import Resize, latent_mask, left_of
from models.text_encoder import TextEncoder
from models.tokenizer import Tokenizer
from models.unet import UNet
from models.vae import Autoencoder

NetworkName = Literal["unet", "vae", "text", "image"]


@dataclass
class LatentDiffusion:
    """U-Net and autoencoder of one checkpoint, with its configuration: all that sampling asks for beside a context.

    identity: which stored weights these are, where they were loaded; weights.fingerprint tells whether they still are.
    mask_resize: how a mask comes to the size of latents where nobody says it, as the weights were trained.
    Gradients flow through every method; callers who want none use torch.no_grad().
    """

    unet: UNet
    vae: Autoencoder
    config: AnyConfig = field(kw_only=True)
    identity: Identity | None = field(default=None, repr=False, compare=False, kw_only=True)
    mask_resize: ClassVar[Resize] = "nearest"

    @property
    def networks(self) -> dict[NetworkName, nn.Module]:
        """The networks by name, all that a checkpoint holds weights of."""
        return {"unet": self.unet, "vae": self.vae}

    @property
    def schedule(self) -> Schedule:
        """The noise the U-Net was trained with; for those who sample, never used here."""
        return self.config.noise

    def with_schedule(self, schedule: Schedule) -> Self:
        """The same networks under another schedule, which is saved with them."""
        return replace(self, config=replace(self.config, noise=schedule))

    @property
    def device(self) -> torch.device:
        """Where the U-Net's parameters are."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the U-Net's parameters."""
        return self.unet.conv_in.weight.dtype

    def encode_image(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pictures (b 3 h w) in [-1, 1] to scaled latents (b 4 h/8 w/8), at least float32.

        The mean of the encoder's Gaussian, or a draw from it when a generator is given.
        """
        return self.vae.latents(self.moments_of(images), generator)

    def moments_of(self, images: Tensor) -> Tensor:
        """Pictures (b 3 h w) in [-1, 1] to the moments (b 8 h/8 w/8) of the encoder's Gaussian, at least float32."""
        weight = self.vae.quant_conv.weight
        moments = self.vae.encode(images.to(weight.device, weight.dtype))
        return moments.to(torch.promote_types(moments.dtype, torch.float32))

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (b 4 h w) to pictures (b 3 8h 8w), at least float32, clipped to [-1, 1]."""
        weight = self.vae.quant_conv.weight
        images = self.vae.decode((latents / self.config.vae.scale_factor).to(weight.device, weight.dtype))
        return images.to(torch.promote_types(images.dtype, torch.float32)).clamp(-1.0, 1.0)

    def surroundings(
        self,
        image: Tensor,
        mask: Tensor,
        generator: torch.Generator | None = None,
        resize: Resize | None = None,
    ) -> Tensor:
        """The five channels beside the latents (b 5 h/8 w/8) of a U-Net that paints in a picture.

        image: (b 3 h w) in [-1, 1]. mask: (b 1 h w), 1 where it is to be repainted. generator: draws the latents of
        what is left, as in training; None takes their mean. resize: of the mask; None as in training.
        Raises ValueError where the U-Net has no such channels, and for sides that are no multiples of 8.
        """
        if not self.config.paints:
            raise ValueError(
                f"{self.config.name} has no channels for a mask; to paint in a picture want a model with nine, such as "
                "sd2-inpainting or paint-by-example"
            )
        rest = self.encode_image(left_of(image, mask), generator)
        small = latent_mask(mask, self.config.vae.factor, resize or self.mask_resize)
        return self.beside(rest, small.to(rest))

    def beside(self, rest: Tensor, mask: Tensor) -> Tensor:
        """What was trained to stand beside the latents: here the mask (b 1 h w), then the rest's latents (b 4 h w)."""
        return torch.cat([mask, rest], dim=1)

    def unconditional(self) -> Tensor:
        """The context of guidance's other half, (1 m width). Raises ValueError for a model that has none."""
        raise ValueError(f"{self.config.name} has no unconditional context of its own: give guidance one")


@dataclass
class StableDiffusion(LatentDiffusion):
    """The model whose context is text: with a text encoder and its tokenizer."""

    text_encoder: TextEncoder
    tokenizer: Tokenizer
    config: ModelConfig = field(kw_only=True)

    @property
    def networks(self) -> dict[NetworkName, nn.Module]:
        """The networks by name, all that a checkpoint holds weights of."""
        return {**super().networks, "text": self.text_encoder}

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Prompts to context, (b 77 width); a single prompt is a batch of one."""
        return self.text_encoder(self.tokenizer(texts).to(self.text_encoder.token_embedding.weight.device))

    def unconditional(self) -> Tensor:
        """The context of guidance's other half, (1 77 width): that of the empty prompt."""
        return self.encode_text("")
