"""Official key -> our key: one short table of templates per published layout.

Two layouts are published. `ldm` is the original single file of latent-diffusion, its three networks told apart by
prefix; `hf` is the folder of unet/, vae/ and text_encoder/. A row reads `ours: theirs`: `{i}` and `{j}` are numbers,
`*` is the rest of the key, and a row that is a pair says by which table that rest goes on. `theirs` is a function where
a number has to be computed; `[0]`, `[1]`, `[2]` pick a third of a fused tensor. The first row that fits counts. Reading
from ours to theirs gives every parameter a source; what a file then has left must be on the short list of things not
needed.
"""

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, NamedTuple, get_args

from models.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from models.stable_diffusion import NetworkName

Layout = Literal["ldm", "hf"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
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
CLIP: Table = {  # SD 1.x in both layouts, SD 2.x in the folder
    "token_embedding.*": "text_model.embeddings.token_embedding.*",
    "position_embedding.*": "text_model.embeddings.position_embedding.*",
    "layers.{i}.norm{j}.*": "text_model.encoder.layers.{i}.layer_norm{j}.*",
    "layers.{i}.attn.to_q.*": "text_model.encoder.layers.{i}.self_attn.q_proj.*",
    "layers.{i}.attn.to_k.*": "text_model.encoder.layers.{i}.self_attn.k_proj.*",
    "layers.{i}.attn.to_v.*": "text_model.encoder.layers.{i}.self_attn.v_proj.*",
    "layers.{i}.attn.to_out.*": "text_model.encoder.layers.{i}.self_attn.out_proj.*",
    "layers.{i}.mlp.linear{j}.*": "text_model.encoder.layers.{i}.mlp.fc{j}.*",
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


def table(config: ModelConfig, layout: Layout, network: NetworkName, keys: Iterable[str] = ()) -> Table:
    """The rows for one network. keys: the file's own, which tell the two spellings of the folder's VAE apart.

    Raises ValueError for a network that the layout has no names for.
    """
    if layout == "hf":
        old = network == "vae" and any(".attentions.0.query." in key for key in keys)
        folder = {"unet": UNET_HF, "vae": vae_hf(VAE_ATTENTION_HF_2022 if old else VAE_ATTENTION_HF), "text": CLIP}
        return _of(network, folder)
    text: Table = {"*": ("cond_stage_model.transformer.*", CLIP)}
    if is_openclip(config.text):
        text = {"*": ("cond_stage_model.model.*", OPENCLIP)}
    file: dict[str, Table] = {
        "unet": {"*": ("model.diffusion_model.*", unet_ldm(config.unet))},
        "vae": {"*": ("first_stage_model.*", vae_ldm(config.vae))},
        "text": text,
    }
    return _of(network, file)


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


def not_needed(key: str, config: ModelConfig, layout: Layout, network: NetworkName | None = None) -> bool:
    """Whether a key of a checkpoint may lie unused. network: whose file it is, in the folder."""
    if layout == "hf":
        return network == "text" and key in ("text_model.embeddings.position_ids", "text_projection.weight")
    beyond = range(config.text.layers, config.text.stored_layers)
    patterns = (*NOT_NEEDED_LDM, *(f"cond_stage_model.model.transformer.resblocks.{i}.*" for i in beyond))
    return any(fnmatchcase(key, pattern) for pattern in patterns)


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
