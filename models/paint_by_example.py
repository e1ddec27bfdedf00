"""Paint by Example (Yang et al., CVPR 2023, arXiv:2211.13227): what a reference shows, painted into a picture.

Latent diffusion whose context is one token of the reference picture, and whose U-Net sees the mask and what is left of
the picture. Nothing is learnt for a new subject.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from models.config import PaintConfig
from models.inpainting import Resize
from models.stable_diffusion import LatentDiffusion, NetworkName
from models.vision import ImageEncoder

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # red, green and blue of CLIP's training pictures, in [0, 1]
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class PaintByExample(LatentDiffusion):
    """The model whose context is a picture: with an image encoder."""

    image_encoder: ImageEncoder
    config: PaintConfig = field(kw_only=True)
    mask_resize: ClassVar[Resize] = "bilinear"

    @property
    def networks(self) -> dict[NetworkName, nn.Module]:
        """The networks by name, all that a checkpoint holds weights of."""
        return {**super().networks, "image": self.image_encoder}

    def encode_reference(self, references: Tensor) -> Tensor:
        """Pictures from `reference_tensor`, (b 3 224 224), to context (b 1 width)."""
        weight = self.image_encoder.proj_out.weight
        return self.image_encoder(references.to(weight.device, weight.dtype))

    def unconditional(self) -> Tensor:
        """The context of guidance's other half, (1 1 width): a token that was learnt with the rest."""
        return self.image_encoder.empty

    def beside(self, rest: Tensor, mask: Tensor) -> Tensor:
        """What was trained to stand beside the latents: the rest's latents (b 4 h w), then where to keep them."""
        return torch.cat([rest, 1 - mask], dim=1)


def reference_tensor(image: Image.Image, size: int = 224) -> Tensor:
    """A reference picture as the image encoder wants it, float32 (1 3 size size), squeezed to a square.

    As in the published script; other tools cut a square out of the middle instead.
    """
    squeezed = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(squeezed)).permute(2, 0, 1)[None].float() / 255
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in (CLIP_MEAN, CLIP_DEVIATION))
    return (pixels - mean) / deviation
