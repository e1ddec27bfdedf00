"""The networks of latent diffusion (arXiv:2112.10752, figure 3) as one value, and the doors between them.

Two of them every model has, the U-Net and the autoencoder; what makes the U-Net's context is the third. Here it is a
text encoder. A model with another one, of pictures for instance, is another class on the same base.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from models.config import ModelConfig, Schedule
from models.identity import Identity
from models.text_encoder import TextEncoder
from models.tokenizer import Tokenizer
from models.unet import UNet
from models.vae import Autoencoder

NetworkName = Literal["unet", "vae", "text"]


@dataclass
class LatentDiffusion:
    """U-Net and autoencoder of one checkpoint, with its configuration: all that sampling asks for beside a context.

    identity: which stored weights these are, where they were loaded; weights.fingerprint tells whether they still are.
    Gradients flow through every method; callers who want none say torch.no_grad().
    """

    unet: UNet
    vae: Autoencoder
    config: ModelConfig = field(kw_only=True)
    identity: Identity | None = field(default=None, repr=False, compare=False, kw_only=True)

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
        weight = self.vae.quant_conv.weight
        moments = self.vae.encode(images.to(weight.device, weight.dtype))
        moments = moments.to(torch.promote_types(moments.dtype, torch.float32))
        latents = self.vae.mean(moments) if generator is None else self.vae.sample(moments, generator)
        return latents * self.config.vae.scale_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (b 4 h w) to pictures (b 3 8h 8w), at least float32, clipped to [-1, 1]."""
        weight = self.vae.quant_conv.weight
        images = self.vae.decode((latents / self.config.vae.scale_factor).to(weight.device, weight.dtype))
        return images.to(torch.promote_types(images.dtype, torch.float32)).clamp(-1.0, 1.0)


@dataclass
class StableDiffusion(LatentDiffusion):
    """The model whose context is text: with a text encoder and its tokenizer."""

    text_encoder: TextEncoder
    tokenizer: Tokenizer

    @property
    def networks(self) -> dict[NetworkName, nn.Module]:
        """The networks by name, all that a checkpoint holds weights of."""
        return {**super().networks, "text": self.text_encoder}

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Prompts to context, (b 77 width); a single prompt is a batch of one."""
        return self.text_encoder(self.tokenizer(texts).to(self.text_encoder.token_embedding.weight.device))
