"""What the small files of a folder may say: names, types and ranges, and what each must say to be computed here.

What may vary is a dataclass with the defaults of the library that writes these files, for it leaves out what equals
them; what we compute in one way only must say just that (FIXED); what bears on training or on other samplers alone may
say anything (IGNORED); and what is left must say nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.config import LEVELS
from weights.parsing import CONFIG_LIMITS, Limits

LIMITS: Limits = {
    **CONFIG_LIMITS,
    **dict.fromkeys(("block_out_channels", "cross_attention_dim", "hidden_size"), (1, 16384)),
    **dict.fromkeys(("layers_per_block", "transformer_layers_per_block"), (1, 64)),
    **dict.fromkeys(("attention_head_dim", "norm_num_groups", "num_attention_heads"), (1, 1024)),
    "num_hidden_layers": (1, 256),
    **dict.fromkeys(("vocab_size", "intermediate_size"), (1, 2**20)),
    "max_position_embeddings": (2, 4096),
    "image_size": (1, 4096),
    "patch_size": (1, 1024),
    "projection_dim": (1, 16384),
    "sample_size": (1, 16384),
    "scaling_factor": (1e-6, 1e6),
    "num_train_timesteps": (2, 100_000),
    "steps_offset": (0, 1000),
}


@dataclass(frozen=True)
class UNetFile:
    """unet/config.json, as far as it may vary."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    layers_per_block: int | tuple[int, ...] = 2
    attention_head_dim: int | tuple[int, ...] = 8
    cross_attention_dim: int | tuple[int, ...] = 1280
    norm_num_groups: int = 32
    transformer_layers_per_block: int | tuple[int, ...] = 1
    use_linear_projection: bool = False
    sample_size: int | tuple[int, ...] | None = None


@dataclass(frozen=True)
class VAEFile:
    """vae/config.json, as far as it may vary."""

    block_out_channels: tuple[int, ...] = (64,)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215


@dataclass(frozen=True)
class TextFile:
    """text_encoder/config.json, as far as it may vary."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: Literal["gelu", "quick_gelu"] = "quick_gelu"


@dataclass(frozen=True)
class ImageFile:
    """image_encoder/config.json, as far as it may vary: the fields of a vision tower, and how wide the context is.

    The class that reads it elsewhere takes it for the configuration of both towers, so everything lies flat in it.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: Literal["gelu", "quick_gelu"] = "quick_gelu"
    projection_dim: int = 512


@dataclass(frozen=True)
class SchedulerFile:
    """scheduler_config.json, as far as it may vary.

    Pipelines put steps_offset to 1 where it is left out, and the schedules of most samplers know no set_alpha_to_one.
    """

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["scaled_linear", "linear"] = "linear"
    num_train_timesteps: int = 1000
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    rescale_betas_zero_snr: bool = False


# What we compute in one way: the values that say so. Any other is refused.
UNET_FIXED: Mapping[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "only_cross_attention": (False, [False] * LEVELS),
    "resnet_out_scale_factor": (1,),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
}
UNET_IGNORED = ("addition_embed_type_num_heads", "dropout", "upcast_attention")  # our softmax is float32 at least
VAE_FIXED: Mapping[str, tuple[Any, ...]] = {
    "_class_name": ("AutoencoderKL", "FlaxAutoencoderKL"),
    "act_fn": ("silu", "swish"),
    "in_channels": (3,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "out_channels": (3,),
    "shift_factor": (None, 0),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
VAE_IGNORED = ("force_upcast", "sample_size")  # dtypes are the caller's to choose; no weight depends on a size
TEXT_FIXED: Mapping[str, tuple[Any, ...]] = {
    "layer_norm_eps": (1e-5,),
    "model_type": ("clip_text_model",),
}
TEXT_IGNORED = (
    *("architectures", "torch_dtype", "dtype", "transformers_version"),
    *("attention_dropout", "dropout", "initializer_factor", "initializer_range"),  # of training
    *("bos_token_id", "eos_token_id", "pad_token_id", "projection_dim"),  # of a pooled state that nothing here asks for
    "use_cache",
)
IMAGE_FIXED: Mapping[str, tuple[Any, ...]] = {
    "layer_norm_eps": (1e-5,),
    "model_type": ("clip_vision_model", "clip"),
    "num_channels": (3,),
}
IMAGE_IGNORED = (
    *("architectures", "torch_dtype", "dtype", "transformers_version"),
    *("attention_dropout", "dropout", "initializer_factor", "initializer_range", "logit_scale_init_value"),
)
SCHEDULER_REFUSED: Mapping[str, tuple[Any, ...]] = {  # anything else is a setting of a sampler that is not ours
    "clip_sample": (False,),
    "snr_shift_scale": (None, 1),
    "thresholding": (False,),
    "trained_betas": (None,),
    "use_flow_sigmas": (None, False),
}
INDEX_CLASSES: Mapping[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
    "vae": ("AutoencoderKL", "FlaxAutoencoderKL"),
    "image_encoder": ("PaintByExampleImageEncoder",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection", "FlaxCLIPTextModel"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    **dict.fromkeys(("text_encoder_2", "transformer", "prior"), ()),
}
