"""What other tools call the layers that a low-rank change is put on.

Every spelling comes down to one: the path of the layer in a published layout, its dots turned into underscores, as
kohya's sd-scripts merges names. Both layouts are understood, the folder's ("down_blocks_0_attentions_0_...") and the
single file's ("input_blocks_1_1_..."). The block structure, and with it the table, is the same for every published
Stable Diffusion 1 and 2; what differs is how many layers the text encoder has.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from models.config import SD15, SD21, ModelConfig
from models.text_encoder import TextEncoder
from models.unet import UNet
from weights.names import Layout, NetworkName, source, table

TEXT_LAYERS = 32  # more than any published text encoder runs
IN_TRANSFORMERS = re.compile(r"unet\.(?:down|mid|up)\.(?:\d+\.)?transformers\..*")
IN_LAYERS = re.compile(r"text\.layers\..*")
KOHYA: dict[NetworkName, str] = {"unet": "lora_unet_", "text": "lora_te_"}
# The longest first: what stands before a path, and the network it then means (None: the path itself tells).
PREFIXES: dict[str, NetworkName | None] = {
    "base_model.model.": None,
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "text_encoder.": "text",
    **{prefix: network for network, prefix in KOHYA.items()},
    "unet.": "unet",
}


class Layer(NamedTuple):
    """One of our weights, "unet.NAME.weight" or "text.NAME.weight", or for a fused one its third as well."""

    parameter: str
    third: int | None = None


def layers() -> tuple[str, ...]:
    """Our weights of Linear layers and convolutions, U-Net and text encoder of the published structure."""
    return tuple(dict.fromkeys(layer.parameter for several in _known().values() for layer in several))


def adapted(config: ModelConfig) -> tuple[str, ...]:
    """The weights that kohya's trainer adapts: all that is linear in the transformers of both networks."""
    text = tuple(f"text.layers.{i}." for i in range(config.text.layers))
    return tuple(n for n in layers() if IN_TRANSFORMERS.fullmatch(n) or (IN_LAYERS.fullmatch(n) and n.startswith(text)))


def kohya_name(parameter: str) -> str:
    """The name that kohya's tools have for the layer of one of our weights.

    Raises ValueError where they have none.
    """
    network, _, name = parameter.partition(".")
    if parameter not in layers():
        raise ValueError(f"no other tool has a name for a change of {parameter!r}; keep it as a concept of our own")
    where: NetworkName = "unet" if network == "unet" else "text"
    return KOHYA[where] + _merged(source(name, table(SD21, "hf", where)).key)


def find(module: str) -> tuple[Layer, ...]:
    """Our weights for the name of a layer in any spelling: none where it is unknown, three for a fused projection."""
    network: NetworkName | None = None
    for prefix, means in PREFIXES.items():
        if module.startswith(prefix):
            module, network = module.removeprefix(prefix), means or network
    path = module.replace(".", "_").replace("_processor_", "_")
    found = _known().get(path) or _known().get(path.removeprefix("model_")) or _known().get(_older(path), ())
    return found if network is None or all(one.parameter.startswith(network) for one in found) else ()


def _older(path: str) -> str:
    """A path as attention processors of 2023 were called: to_out for to_out.0, and in the text encoder to_q, to_k."""
    if "self_attn_to_" in path:
        return re.sub(r"_to_(q|k|v|out)$", r"_\1_proj", path)
    return re.sub(r"_to_out$", "_to_out_0", path)


@cache
def _known() -> Mapping[str, tuple[Layer, ...]]:
    """Merged path to our weights, in every layout."""
    deep = replace(SD21, text=replace(SD21.text, layers=TEXT_LAYERS, stored_layers=TEXT_LAYERS))
    with torch.device("meta"):
        networks: dict[NetworkName, nn.Module] = {"unet": UNet(deep.unet), "text": TextEncoder(deep.text)}
    known: dict[str, tuple[Layer, ...]] = {}
    for network, module in networks.items():
        weights = [f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        published: tuple[tuple[ModelConfig, Layout], ...] = ((SD21, "hf"), (SD21, "ldm"), (SD15, "ldm"))
        for config, layout in published:
            rows = table(config, layout, network)
            for name in weights:
                place = source(name, rows)
                path = _merged(re.sub(r"^(model\.diffusion_model|cond_stage_model\.\w+)\.", "", place.key))
                layer = Layer(f"{network}.{name}", place.third)
                known[path] = tuple(dict.fromkeys((*known.get(path, ()), layer)))
    return MappingProxyType(known)


def _merged(key: str) -> str:
    """The path of a weight's layer as one word."""
    return re.sub(r"[._]weight$", "", key).replace(".", "_")
