"""The folder layout: unet/, vae/, text_encoder/ or image_encoder/, and small files that tell other tools of them.

The numbers are written out from the configuration; tests compare them with a folder that another library wrote.
The tokenizer's files hold open_clip's vocabulary in the spelling other tools read, for the two are the same table.
"""

import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.config import AnyConfig, ModelConfig, TextConfig, VisionConfig
from models.paint_by_example import CLIP_DEVIATION, CLIP_MEAN
from models.stable_diffusion import LatentDiffusion
from weights.atomic import new_folder
from weights.files import HF_FILES
from weights.folder_config import Json, mapper_blocks
from weights.load import networks_of
from weights.names import NetworkName, source, table
from weights.recognise import NOTE

DIFFUSERS_VERSION = "0.21.0"  # whose spelling of the folder this is


def to_folder(model: LatentDiffusion) -> dict[NetworkName, dict[str, Tensor]]:
    """Every parameter under its name and shape in the folder layout, network by network: the inverse of `rename`."""
    state: dict[NetworkName, dict[str, Tensor]] = {}
    for part, network in networks_of(model).items():
        rows = table(model.config, "hf", part)
        convolutions = part == "unet" and not model.config.unet.linear_projection
        state[part] = {}
        for ours, tensor in network.state_dict().items():
            is_projection = (
                convolutions and ours.endswith((".proj_in.weight", ".proj_out.weight")) and ".ff." not in ours
            )
            state[part][source(ours, rows).key] = tensor[..., None, None] if is_projection else tensor
    return state


def save_folder(model: LatentDiffusion, path: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
    """Write a model in the folder layout, complete or not at all; its config goes into photoswap.json.

    dtype: None keeps each parameter's own. Raises ValueError when something is at `path`, OSError when it cannot be
    written.
    """
    with new_folder(Path(path)) as folder:
        for name, content in texts(model.config).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        for part, state in to_folder(model).items():
            home, stem = HF_FILES[part]
            tensors = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in state.items()}
            save_file(tensors, folder / home / f"{stem}.safetensors", metadata={"format": "pt"})


def texts(config: AnyConfig) -> dict[str, str]:
    """The small files of the folder: relative path to content."""
    contents: dict[str, Json] = {
        "model_index.json": model_index(config),
        "scheduler/scheduler_config.json": scheduler_config(config),
        "unet/config.json": unet_config(config),
        "vae/config.json": vae_config(config),
        NOTE: asdict(config),
    }
    if isinstance(config, ModelConfig):
        contents |= {
            "text_encoder/config.json": text_config(config.text),
            "tokenizer/tokenizer_config.json": tokenizer_config(config.text),
            "tokenizer/special_tokens_map.json": special_tokens(config.text),
        }
    else:
        contents |= {
            "image_encoder/config.json": image_config(config.image),
            "feature_extractor/preprocessor_config.json": preprocessor_config(config.image),
        }
    written = {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}
    return written | (vocabulary() if isinstance(config, ModelConfig) else {})


def model_index(config: AnyConfig) -> Json:
    """Which classes other tools open the parts with. There is no safety checker, and none is asked for."""
    index: Json = {
        "_diffusers_version": DIFFUSERS_VERSION,
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if isinstance(config, ModelConfig):
        return index | {
            "_class_name": "StableDiffusionInpaintPipeline" if config.paints else "StableDiffusionPipeline",
            "feature_extractor": [None, None],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
        }
    return index | {
        "_class_name": "PaintByExamplePipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["paint_by_example", "PaintByExampleImageEncoder"],
    }


def scheduler_config(config: AnyConfig) -> Json:
    """The noise schedule, and what the network predicts."""
    noise = config.noise
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": noise.beta_end,
        "beta_schedule": noise.beta_schedule,
        "beta_start": noise.beta_start,
        "clip_sample": False,
        "num_train_timesteps": noise.train_steps,
        "prediction_type": "v_prediction" if noise.prediction == "v" else "epsilon",
        "set_alpha_to_one": noise.set_alpha_to_one,
        "steps_offset": noise.offset,
        "timestep_spacing": noise.spacing,
    } | ({"rescale_betas_zero_snr": True} if noise.rescale_zero_snr else {})


def unet_config(config: AnyConfig) -> Json:
    """The U-Net. What is called attention_head_dim there is the number of heads, an old mistake kept for old files."""
    unet = config.unet
    _check_first(unet.multipliers, "U-Net")
    attended = [level in unet.attention_levels for level in range(len(unet.widths))]
    heads = unet.heads if unet.heads is not None else [unet.heads_at(width) for width in unet.widths]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": list(unet.widths),
        "center_input_sample": False,
        "cross_attention_dim": unet.context_channels,
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attended],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": unet.in_channels,
        "layers_per_block": unet.res_blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": unet.groups,
        "out_channels": unet.out_channels,
        "sample_size": config.native_size // config.vae.factor,
        "transformer_layers_per_block": unet.depth,
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)],
        "upcast_attention": config.noise.prediction == "v",  # SD 2.1 (768) overflows in float16 without it
        "use_linear_projection": unet.linear_projection,
    }


def vae_config(config: AnyConfig) -> Json:
    """The autoencoder."""
    vae = config.vae
    _check_first(vae.multipliers, "VAE")
    levels = len(vae.widths)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(vae.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": 3,
        "latent_channels": vae.latent_channels,
        "layers_per_block": vae.res_blocks,
        "norm_num_groups": vae.groups,
        "out_channels": 3,
        "sample_size": config.native_size,
        "scaling_factor": vae.scale_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _check_first(multipliers: tuple[int, ...], network: str) -> None:
    if multipliers[0] != 1:
        raise ValueError(
            f"the {network} has multipliers {multipliers}; the folder layout knows only those that begin with 1"
        )


def text_config(text: TextConfig) -> Json:
    """The text encoder; it has the layers that run, and no more."""
    start, end = text.vocabulary - 2, text.vocabulary - 1
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": start,
        "eos_token_id": end,
        "hidden_act": text.activation,
        "hidden_size": text.width,
        "intermediate_size": text.width * text.mlp_ratio,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": text.length,
        "model_type": "clip_text_model",
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.layers,
        "pad_token_id": end if text.padding == "eot" else 0,
        "projection_dim": text.width,
        "vocab_size": text.vocabulary,
    }


def image_config(image: VisionConfig) -> Json:
    """The image encoder. All lies flat: the class that reads it would look for a tower's numbers in a part of its own.

    It reckons the mapper's blocks from the tower's layers, has one head in each, and cannot be told otherwise.
    """
    if (image.mapper_blocks, image.mapper_heads) != (mapper_blocks(image.layers), 1):
        raise ValueError(
            f"the mapper has {image.mapper_blocks} blocks of {image.mapper_heads} heads; the folder layout knows only "
            f"{mapper_blocks(image.layers)} of one behind a tower of {image.layers} layers: write a single file"
        )
    return {
        "architectures": ["PaintByExampleImageEncoder"],
        "attention_dropout": 0.0,
        "hidden_act": image.activation,
        "hidden_size": image.width,
        "image_size": image.size,
        "intermediate_size": image.width * image.mlp_ratio,
        "layer_norm_eps": 1e-5,
        "model_type": "clip_vision_model",
        "num_attention_heads": image.heads,
        "num_channels": 3,
        "num_hidden_layers": image.layers,
        "patch_size": image.patch,
        "projection_dim": image.context_channels,
    }


def preprocessor_config(image: VisionConfig) -> Json:
    """How other tools make a reference picture ready; they cut out its middle where we squeeze it."""
    return {
        "crop_size": {"height": image.size, "width": image.size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(CLIP_DEVIATION),
        "resample": 3,  # bicubic
        "size": {"shortest_edge": image.size},
    }


def special_tokens(text: TextConfig) -> Json:
    """How the tokens that are no words are spelt; padding is "!", token 0, in SD 2.x."""
    end = "<|endoftext|>"
    return {
        "bos_token": "<|startoftext|>",
        "eos_token": end,
        "pad_token": end if text.padding == "eot" else "!",
        "unk_token": end,
    }


def tokenizer_config(text: TextConfig) -> Json:
    """How text is cut into tokens and filled up."""
    return {
        **special_tokens(text),
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": text.length,
        "split_special_tokens": True,  # else a "!" in a prompt, which is also what SD 2.x pads with, is read as padding
        "tokenizer_class": "CLIPTokenizer",
    }


@cache
def vocabulary() -> dict[str, str]:
    """The tokenizer's pieces with their ids, and which pairs of pieces are joined, in order."""
    from open_clip.tokenizer import SimpleTokenizer  # takes seconds to import

    tokenizer = SimpleTokenizer()
    spelt = {tokenizer.sot_token_id: "<|startoftext|>", tokenizer.eot_token_id: "<|endoftext|>"}
    ids = {spelt.get(token, piece): token for piece, token in tokenizer.encoder.items()}
    ranks = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    merges = ["#version: 0.2", *(f"{left} {right}" for left, right in ranks)]
    return {
        "tokenizer/vocab.json": json.dumps(ids, ensure_ascii=False) + "\n",
        "tokenizer/merges.txt": "\n".join(merges) + "\n",
    }
