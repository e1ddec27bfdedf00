"""Official key -> our key: one short table of templates per published layout.

Two layouts are published. `ldm` is the original single file of latent-diffusion, its three networks told apart by
prefix; `hf` is the folder of unet/, vae/ and text_encoder/ or image_encoder/. A row reads `ours: theirs`: `{i}` and
`{j}` are numbers, `*` is the rest of the key, and a row that is a pair says by which table that rest goes on. `theirs`
is a function where a number has to be computed; `[0]`, `[1]`, `[2]` pick a third of a fused tensor. The first row that
fits counts. Reading from ours to theirs gives every parameter a source; what a file then has left must be on the short
list of things not needed.
"""

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, NamedTuple

from models.config import AnyConfig, ModelConfig, TextConfig, UNetConfig, VAEConfig
from models.stable_diffusion import NetworkName

Layout = Literal["ldm", "hf"]
NETWORKS: tuple[NetworkName, ...] = ("unet", "vae", "text")  # of a model whose context is text
Place = str | Callable[..., str]
Table = dict[str, "Place | tuple[Place, Table]"]


class Source(NamedTuple):
    """Where one of our parameters lies in a checkpoint: the official key, and which third of it (None: all of it)."""

    key: str
    third: int | None = None


TRANSFORMER: Table = {
    "norm.*": "norm.*",
    "proj_in.*": "proj_in.*",
    "proj_out.*": "proj_out.*",
    "blocks.{i}.attn{j}.to_out.*": "transformer_blocks.{i}.attn{j}.to_out.0.*",
    "blocks.{i}.ff.proj_in.*": "transformer_blocks.{i}.ff.net.0.proj.*",
    "blocks.{i}.ff.proj_out.*": "transformer_blocks.{i}.ff.net.2.*",
    "blocks.{i}.*": "transformer_blocks.{i}.*",  # norm1..3 and to_q, to_k, to_v are called alike
}
RESBLOCK_LDM: Table = {
    "norm1.*": "in_layers.0.*",
    "conv1.*": "in_layers.2.*",
    "time.*": "emb_layers.1.*",
    "norm2.*": "out_layers.0.*",
    "conv2.*": "out_layers.3.*",
    "shortcut.*": "skip_connection.*",
}
RESBLOCK_HF: Table = {"time.*": "time_emb_proj.*", "shortcut.*": "conv_shortcut.*", "*": "*"}
VAE_RESBLOCK_LDM: Table = {"shortcut.*": "nin_shortcut.*", "*": "*"}
VAE_ATTENTION_LDM: Table = {
    "norm.*": "norm.*",
    "to_q.*": "q.*",
    "to_k.*": "k.*",
    "to_v.*": "v.*",
    "to_out.*": "proj_out.*",
}
VAE_ATTENTION_HF: Table = {"norm.*": "group_norm.*", "to_out.*": "to_out.0.*", "*": "*"}
VAE_ATTENTION_HF_2022: Table = {
    "norm.*": "group_norm.*",
    "to_q.*": "query.*",
    "to_k.*": "key.*",
    "to_v.*": "value.*",
    "to_out.*": "proj_attn.*",
}
CLIP_LAYER: Table = {
    "norm{j}.*": "layer_norm{j}.*",
    "attn.to_q.*": "self_attn.q_proj.*",
    "attn.to_k.*": "self_attn.k_proj.*",
    "attn.to_v.*": "self_attn.v_proj.*",
    "attn.to_out.*": "self_attn.out_proj.*",
    "mlp.linear{j}.*": "mlp.fc{j}.*",
}
CLIP: Table = {  # SD 1.x in both layouts, SD 2.x in the folder
    "token_embedding.*": "text_model.embeddings.token_embedding.*",
    "position_embedding.*": "text_model.embeddings.position_embedding.*",
    "layers.{i}.*": ("text_model.encoder.layers.{i}.*", CLIP_LAYER),
    "final_norm.*": "text_model.final_layer_norm.*",
}
OPENCLIP: Table = {  # SD 2.x in the single file: open_clip's own names, q, k and v fused
    "token_embedding.*": "token_embedding.*",
    "position_embedding.weight": "positional_embedding",
    "layers.{i}.norm{j}.*": "transformer.resblocks.{i}.ln_{j}.*",
    "layers.{i}.attn.to_q.*": "transformer.resblocks.{i}.attn.in_proj_*[0]",
    "layers.{i}.attn.to_k.*": "transformer.resblocks.{i}.attn.in_proj_*[1]",
    "layers.{i}.attn.to_v.*": "transformer.resblocks.{i}.attn.in_proj_*[2]",
    "layers.{i}.attn.to_out.*": "transformer.resblocks.{i}.attn.out_proj.*",
    "layers.{i}.mlp.linear1.*": "transformer.resblocks.{i}.mlp.c_fc.*",
    "layers.{i}.mlp.linear2.*": "transformer.resblocks.{i}.mlp.c_proj.*",
    "final_norm.*": "ln_final.*",
}
VISION: Table = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "patches.*": "vision_model.embeddings.patch_embedding.*",
    "position_embedding.*": "vision_model.embeddings.position_embedding.*",
    "norm_in.*": "vision_model.pre_layrnorm.*",  # a typing mistake, and the name in every file there is
    "layers.{i}.*": ("vision_model.encoder.layers.{i}.*", CLIP_LAYER),
    "norm_out.*": "vision_model.post_layernorm.*",
}
IMAGE_LDM: Table = {
    "tower.*": ("cond_stage_model.transformer.*", VISION),
    "mapper.{i}.norm{j}.*": "cond_stage_model.mapper.resblocks.{i}.ln_{j}.*",
    "mapper.{i}.attn.to_q.*": "cond_stage_model.mapper.resblocks.{i}.attn.c_qkv.*[0]",
    "mapper.{i}.attn.to_k.*": "cond_stage_model.mapper.resblocks.{i}.attn.c_qkv.*[1]",
    "mapper.{i}.attn.to_v.*": "cond_stage_model.mapper.resblocks.{i}.attn.c_qkv.*[2]",
    "mapper.{i}.attn.to_out.*": "cond_stage_model.mapper.resblocks.{i}.attn.c_proj.*",
    "mapper.{i}.mlp.linear1.*": "cond_stage_model.mapper.resblocks.{i}.mlp.c_fc.*",
    "mapper.{i}.mlp.linear2.*": "cond_stage_model.mapper.resblocks.{i}.mlp.c_proj.*",
    "final_norm.*": "cond_stage_model.final_ln.*",
    "proj_out.*": "proj_out.*",
    "empty": "learnable_vector",
}
IMAGE_HF: Table = {
    "tower.*": ("model.*", VISION),
    "mapper.{i}.norm1.*": "mapper.blocks.{i}.norm1.*",
    "mapper.{i}.norm2.*": "mapper.blocks.{i}.norm3.*",  # the second is that of a cross-attention it has not
    "mapper.{i}.attn.to_out.*": "mapper.blocks.{i}.attn1.to_out.0.*",
    "mapper.{i}.attn.*": "mapper.blocks.{i}.attn1.*",
    "mapper.{i}.mlp.linear1.*": "mapper.blocks.{i}.ff.net.0.proj.*",
    "mapper.{i}.mlp.linear2.*": "mapper.blocks.{i}.ff.net.2.*",
    "final_norm.*": "final_layer_norm.*",
    "proj_out.*": "proj_out.*",
    "empty": "uncond_vector",
}


def unet_ldm(config: UNetConfig) -> Table:
    """The U-Net of the single file, its entries counted through: conv_in, then res_blocks + 1 for each level."""
    step, levels = config.res_blocks + 1, len(config.multipliers)

    def upsample(i: int) -> str:  # the third module of its entry, or the second where the level has no attention
        attended = levels - 1 - i in config.attention_levels
        return f"output_blocks.{i * step + config.res_blocks}.{2 if attended else 1}.conv.*"

    return {
        "time_embedding.linear1.*": "time_embed.0.*",
        "time_embedding.linear2.*": "time_embed.2.*",
        "conv_in.*": "input_blocks.0.0.*",
        "down.{i}.resblocks.{j}.*": (lambda i, j: f"input_blocks.{1 + i * step + j}.0.*", RESBLOCK_LDM),
        "down.{i}.transformers.{j}.*": (lambda i, j: f"input_blocks.{1 + i * step + j}.1.*", TRANSFORMER),
        "down.{i}.downsample.conv.*": lambda i: f"input_blocks.{(i + 1) * step}.0.op.*",
        "mid.resblocks.{j}.*": (lambda j: f"middle_block.{2 * j}.*", RESBLOCK_LDM),
        "mid.transformers.0.*": ("middle_block.1.*", TRANSFORMER),
        "up.{i}.resblocks.{j}.*": (lambda i, j: f"output_blocks.{i * step + j}.0.*", RESBLOCK_LDM),
        "up.{i}.transformers.{j}.*": (lambda i, j: f"output_blocks.{i * step + j}.1.*", TRANSFORMER),
        "up.{i}.upsample.conv.*": upsample,
        "norm_out.*": "out.0.*",
        "conv_out.*": "out.2.*",
    }


UNET_HF: Table = {
    "time_embedding.linear{i}.*": "time_embedding.linear_{i}.*",
    "conv_in.*": "conv_in.*",
    "down.{i}.resblocks.{j}.*": ("down_blocks.{i}.resnets.{j}.*", RESBLOCK_HF),
    "down.{i}.transformers.{j}.*": ("down_blocks.{i}.attentions.{j}.*", TRANSFORMER),
    "down.{i}.downsample.conv.*": "down_blocks.{i}.downsamplers.0.conv.*",
    "mid.resblocks.{j}.*": ("mid_block.resnets.{j}.*", RESBLOCK_HF),
    "mid.transformers.{j}.*": ("mid_block.attentions.{j}.*", TRANSFORMER),
    "up.{i}.resblocks.{j}.*": ("up_blocks.{i}.resnets.{j}.*", RESBLOCK_HF),
    "up.{i}.transformers.{j}.*": ("up_blocks.{i}.attentions.{j}.*", TRANSFORMER),
    "up.{i}.upsample.conv.*": "up_blocks.{i}.upsamplers.0.conv.*",
    "norm_out.*": "conv_norm_out.*",
    "conv_out.*": "conv_out.*",
}


def vae_ldm(config: VAEConfig) -> Table:
    """The VAE of the single file. It counts the decoder's levels from the picture inwards; ours run as they execute."""
    last = len(config.multipliers) - 1
    half: Table = {
        "down.{i}.resblocks.{j}.*": ("down.{i}.block.{j}.*", VAE_RESBLOCK_LDM),
        "up.{i}.resblocks.{j}.*": (lambda i, j: f"up.{last - i}.block.{j}.*", VAE_RESBLOCK_LDM),
        "up.{i}.upsample.*": lambda i: f"up.{last - i}.upsample.*",
        "mid.resblocks.{j}.*": (lambda j: f"mid.block_{j + 1}.*", VAE_RESBLOCK_LDM),
        "mid.attention.*": ("mid.attn_1.*", VAE_ATTENTION_LDM),
        "*": "*",  # conv_in, down.i.downsample.conv, norm_out and conv_out are called alike
    }
    return {"encoder.*": ("encoder.*", half), "decoder.*": ("decoder.*", half), "*": "*"}


def vae_hf(attention: Table) -> Table:
    """The VAE of the folder, under the given spelling of its attention."""
    half: Table = {
        "down.{i}.resblocks.{j}.*": ("down_blocks.{i}.resnets.{j}.*", RESBLOCK_HF),
        "down.{i}.downsample.conv.*": "down_blocks.{i}.downsamplers.0.conv.*",
        "up.{i}.resblocks.{j}.*": ("up_blocks.{i}.resnets.{j}.*", RESBLOCK_HF),
        "up.{i}.upsample.conv.*": "up_blocks.{i}.upsamplers.0.conv.*",
        "mid.resblocks.{j}.*": ("mid_block.resnets.{j}.*", RESBLOCK_HF),
        "mid.attention.*": ("mid_block.attentions.0.*", attention),
        "norm_out.*": "conv_norm_out.*",
        "*": "*",
    }
    return {"encoder.*": ("encoder.*", half), "decoder.*": ("decoder.*", half), "*": "*"}


def is_openclip(config: TextConfig) -> bool:
    """Whether the single file names this text encoder as open_clip does (SD 2.x) and not as CLIP's port (SD 1.x)."""
    return config.activation == "gelu"


def table(config: AnyConfig, layout: Layout, network: NetworkName, keys: Iterable[str] = ()) -> Table:
    """The rows for one network. keys: the file's own, which tell the two spellings of the folder's VAE apart.

    Raises ValueError for a network that the layout has no names for.
    """
    tables: dict[str, Table]
    if layout == "hf":
        old = network == "vae" and any(".attentions.0.query." in key for key in keys)
        tables = {"unet": UNET_HF, "vae": vae_hf(VAE_ATTENTION_HF_2022 if old else VAE_ATTENTION_HF)}
    else:
        tables = {
            "unet": {"*": ("model.diffusion_model.*", unet_ldm(config.unet))},
            "vae": {"*": ("first_stage_model.*", vae_ldm(config.vae))},
        }
    if not isinstance(config, ModelConfig):
        return _of(network, {**tables, "image": IMAGE_HF if layout == "hf" else IMAGE_LDM})
    return _of(network, {**tables, "text": CLIP if layout == "hf" else text_ldm(config.text)})


def text_ldm(config: TextConfig) -> Table:
    """The text encoder of the single file."""
    if is_openclip(config):
        return {"*": ("cond_stage_model.model.*", OPENCLIP)}
    return {"*": ("cond_stage_model.transformer.*", CLIP)}


def _of(network: NetworkName, tables: dict[str, Table]) -> Table:
    if network not in tables:
        raise ValueError(f"no names are known for a network {network!r}: want one of {', '.join(tables)}")
    return tables[network]


def source(key: str, rows: Table) -> Source:
    """Translate one of our keys. Raises ValueError when no row names it."""
    theirs = _translate(key, rows)
    if theirs.endswith("]"):
        return Source(theirs[:-3], int(theirs[-2]))
    return Source(theirs)


def not_needed(key: str, config: AnyConfig, layout: Layout, network: NetworkName | None = None) -> bool:
    """Whether a key of a checkpoint may lie unused. network: whose file it is, in the folder."""
    if layout == "hf":
        return network is not None and key in NOT_NEEDED_HF.get(network, ())
    if not isinstance(config, ModelConfig):
        others: tuple[str, ...] = ("cond_stage_model.transformer.vision_model.embeddings.position_ids",)
    else:
        beyond = range(config.text.layers, config.text.stored_layers)
        others = (*NOT_NEEDED_TEXT, *(f"cond_stage_model.model.transformer.resblocks.{i}.*" for i in beyond))
    return any(fnmatchcase(key, pattern) for pattern in (*NOT_NEEDED_LDM, *others))


NOT_NEEDED_HF: dict[NetworkName, tuple[str, ...]] = {
    "text": ("text_model.embeddings.position_ids", "text_projection.weight"),
    "image": ("model.vision_model.embeddings.position_ids",),
}
NOT_NEEDED_LDM = (
    "betas",  # the schedule is computed, in float64
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "model_ema.*",  # published files hold the average in the main keys already
)
NOT_NEEDED_TEXT = (
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.model.text_projection",  # after the last layer: the context is taken before it
    "cond_stage_model.model.logit_scale",
)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    numbers = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    return re.compile(numbers.replace(r"\*", "(?P<rest>.+)"))


def _translate(key: str, rows: Table) -> str:
    for ours, row in rows.items():
        if match := _pattern(ours).fullmatch(key):
            theirs, inner = row if isinstance(row, tuple) else (row, None)
            fields = match.groupdict()
            rest = fields.pop("rest", "")
            numbers = {name: int(value) for name, value in fields.items()}
            place = theirs.format(**numbers) if isinstance(theirs, str) else theirs(**numbers)
            return place.replace("*", _translate(rest, inner) if inner else rest)
    raise ValueError(f"no row of the name table covers our key {key!r}")
