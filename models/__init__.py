"""The networks of Stable Diffusion, written out: tensors in, tensors out.

Latent diffusion (arXiv:2112.10752) is three networks: a convolutional autoencoder (`vae`), the CLIP text transformer
(`text_encoder`, arXiv:2103.00020) and a U-Net that predicts noise (`unet`, arXiv:2006.11239). Photoswap
(arXiv:2305.18286) edits the attention inside the U-Net, so `attention` is explicit and `hooks` says where it can be
watched or replaced. Paint by Example (arXiv:2211.13227) reads a picture where the others read text (`vision`), and
paints inside a mask (`inpainting`). Nothing in this package samples, trains or reads weights.
"""

from models.attention import Attention, CrossAttention, PreparedContext, SelfAttention, attend, mapped_attention
from models.blocks import Downsample, ResBlock, TimeEmbedding, Upsample, timestep_embedding
from models.config import (
    MINIATURE,
    MODELS,
    PAINT_BY_EXAMPLE,
    SD2_INPAINTING,
    SD15,
    SD15_INPAINTING,
    SD21,
    SD21_BASE,
    AnyConfig,
    ModelConfig,
    PaintConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
    VisionConfig,
)
from models.hooks import NO_HOOK, Hook, Hooks, HookTable, Site, merge, quantities, reading
from models.images import as_mask, fit, grid, load_image, load_mask, to_image, to_tensor, upright
from models.inpainting import painting, to_mask
from models.paint_by_example import PaintByExample, reference_tensor
from models.stable_diffusion import StableDiffusion
from models.text_encoder import TextEncoder
from models.tokenizer import Tokenizer
from models.transformer import GEGLU, SpatialTransformer, TransformerBlock
from models.unet import UNet
from models.vae import Autoencoder, Decoder, Encoder
from models.vision import ImageEncoder, VisionTower

__all__ = [
    "GEGLU",
    "MINIATURE",
    "MODELS",
    "NO_HOOK",
    "PAINT_BY_EXAMPLE",
    "SD2_INPAINTING",
    "SD15",
    "SD15_INPAINTING",
    "SD21",
    "SD21_BASE",
    "AnyConfig",
    "Attention",
    "Autoencoder",
    "CrossAttention",
    "Decoder",
    "Downsample",
    "Encoder",
    "Hook",
    "HookTable",
    "Hooks",
    "ImageEncoder",
    "ModelConfig",
    "PaintByExample",
    "PaintConfig",
    "PreparedContext",
    "ResBlock",
    "SelfAttention",
    "Site",
    "SpatialTransformer",
    "StableDiffusion",
    "TextConfig",
    "TextEncoder",
    "TimeEmbedding",
    "Tokenizer",
    "TransformerBlock",
    "UNet",
    "UNetConfig",
    "Upsample",
    "VAEConfig",
    "VisionConfig",
    "VisionTower",
    "as_mask",
    "attend",
    "fit",
    "grid",
    "load_image",
    "load_mask",
    "mapped_attention",
    "merge",
    "painting",
    "quantities",
    "reading",
    "reference_tensor",
    "timestep_embedding",
    "to_image",
    "to_mask",
    "to_tensor",
    "upright",
]
