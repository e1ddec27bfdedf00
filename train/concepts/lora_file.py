"""LoRA files (arXiv:2106.09685): written in kohya's names, which all tools read, and read in everybody's.

kohya: lora_unet_PATH.lora_down.weight (r i), .lora_up.weight (o r) and .alpha; the change is alpha / r x up @ down, and
alpha is r where it is missing. diffusers: unet.PATH.lora.down.weight, or .processor.to_q_lora.down.weight, in the text
encoder .lora_linear_layer.down.weight. PEFT: PATH.lora_A.weight and .lora_B.weight, alpha in the file's notes or in an
adapter_config.json beside it.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from models.config import ModelConfig
from train.concepts.changes import LowRank
from train.concepts.concept import WRITTEN_DTYPES, Concept
from train.concepts.foreign import ForeignFile, foreign_concept, own_note
from train.concepts.module_names import Layer, find, kohya_name
from weights.atomic import atomic
from weights.records import RECORD_KEY, check_values, listed, quoted

LORA_NOTE = "lora"
LARGEST_ALPHA = 1e6
KEPT = (
    "ss_base_model_version",
    "ss_network_dim",
    "ss_network_alpha",
    "modelspec.architecture",
    "modelspec.prediction_type",
    "modelspec.trigger_phrase",
)
PREDICTION = {"eps": "epsilon", "v": "v"}
LORA_KEY = re.compile(
    r"(?P<module>.+?)"
    r"(?:\.lora_(?P<new>down|up|A|B)(?:\.default)?\.weight"
    r"|(?:\.lora_linear_layer|[._]lora)\.(?P<old>down|up)\.weight"
    r"|(?:\.lora_linear_layer|[._]lora)?\.(?P<alpha>alpha))"
)
SIDES = {"A": "down", "B": "up"}
SDXL_PREFIXES = ("lora_te1_", "lora_te2_", "text_encoder_2.")
OTHERS = ("lora_transformer_", "transformer.", "lora_te3_")
BUNDLED = re.compile(r"bundle_emb\.(?P<word>.+)\.(?:string_to_param\.\*|emb_params)")


def is_lora(names: list[str]) -> bool:
    """Whether a file of these tensors is a LoRA."""
    return any(LORA_KEY.fullmatch(name) for name in names)


# ---- read


def read_lora(file: ForeignFile) -> Concept:
    """The LoRA in a file. Raises ValueError, naming them, for tensors that no LoRA for SD 1.x or 2.x has."""
    found: dict[str, dict[str, Tensor]] = {}
    words: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in file.tensors.items():
        if match := LORA_KEY.fullmatch(name):
            part = match["new"] or match["old"] or match["alpha"]
            found.setdefault(match["module"], {})[SIDES.get(part, part)] = tensor
        elif bundled := BUNDLED.fullmatch(name):
            words[bundled["word"]] = tensor
        else:
            unknown.append(name)
    _check_family(file)
    unknown += [module for module in found if not find(module)]
    if unknown:
        raise file.unknown(unknown, "a LoRA")
    changes: dict[str, LowRank] = {}
    for module, parts in found.items():
        for layer, change in _changes(file, module, parts):
            if layer.parameter in changes:
                raise file.wrong(f"changes {layer.parameter} twice, under two names of one layer ({quoted(module)})")
            changes[layer.parameter] = change
    if own := file.own_about(LORA_NOTE):
        return Concept(**vars(own), changes={**changes}, words=words)
    notes = {name: file.notes[name][:200] for name in KEPT if name in file.notes}
    return foreign_concept(file, {**changes}, words, notes, _context_width(changes))


def _check_family(file: ForeignFile) -> None:
    architecture = file.notes.get("modelspec.architecture", "")
    for told, family in ((SDXL_PREFIXES, "SDXL"), (OTHERS, "a model that has no U-Net")):
        if wrong := [name for name in file.tensors if name.startswith(told)]:
            raise file.wrong(f"is a LoRA for {family} ({quoted(wrong[0])}); want one for SD 1.x or 2.x")
    if "xl" in architecture.lower():
        raise file.wrong(f"is a LoRA for {quoted(architecture)}; want one for SD 1.x or 2.x")


def _changes(file: ForeignFile, module: str, parts: Mapping[str, Tensor]) -> list[tuple[Layer, LowRank]]:
    """What is put on each of our weights; a fused projection's rows are split in three."""
    if lacking := [side for side in ("down", "up") if side not in parts]:
        raise file.wrong(f"has no {lacking[0]} for {quoted(module)}; the two halves of a LoRA belong together")
    up, down = parts["up"], parts["down"]
    flat = all(m.ndim in (2, 4) and m.numel() for m in (up, down))
    if not flat or up.shape[1] != len(down) or set(up.shape[2:]) - {1}:
        raise file.wrong(
            f"has up {tuple(up.shape)} and down {tuple(down.shape)} for {quoted(module)}; want (o, r) and (r, i)"
        )
    alpha, found = _alpha(file, module, parts.get("alpha"), len(down)), find(module)
    if len(found) > 1 and len(up) % 3:
        raise file.wrong(f"has up {tuple(up.shape)} for {quoted(module)}; want three times as many rows as columns")
    third = len(up) // 3
    return [(one, LowRank(up if one.third is None else up[one.third * third :][:third], down, alpha)) for one in found]


def _alpha(file: ForeignFile, module: str, stored: Tensor | None, rank: int) -> float:
    if stored is None:
        return _noted_alpha(file, module, rank)
    if stored.numel() != 1:
        raise file.wrong(f"has alpha of shape {tuple(stored.shape)} for {quoted(module)}; want one number")
    return _checked(file, float(stored))


def _noted_alpha(file: ForeignFile, module: str, rank: int) -> float:
    """As PEFT notes it for all layers together: in the header, or in a file of its own; else the rank."""
    prefix, _, _ = module.partition(".")
    notes = file.read_notes(file.notes.get("lora_adapter_metadata"))
    if module.startswith("base_model.model."):
        beside, prefix = file.path.with_name("adapter_config.json"), ""
        if not beside.is_file():
            raise file.wrong("is a LoRA of PEFT, whose alpha stands in adapter_config.json; put that file beside it")
        notes = file.read_notes(beside.read_text(encoding="utf-8", errors="replace"))
    said = {key.removeprefix(f"{prefix}."): value for key, value in notes.items()}
    if said.get("alpha_pattern"):
        raise file.wrong("has an alpha of its own for some layers (alpha_pattern), which is not read")
    alpha = said.get("lora_alpha", rank)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise file.wrong(f"notes {quoted(alpha)} as lora_alpha; want a number")
    return _checked(file, float(alpha)) * (math.sqrt(rank) if said.get("use_rslora") else 1)


def _checked(file: ForeignFile, alpha: float) -> float:
    if not abs(alpha) <= LARGEST_ALPHA:
        raise file.wrong(f"has alpha {alpha:g}; want a number up to {LARGEST_ALPHA:g}")
    return alpha


def _context_width(changes: Mapping[str, LowRank]) -> int | None:
    """How wide the text states are that the cross-attention, or the text encoder, takes."""
    telling = [
        c for n, c in changes.items() if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight", "attn.to_q.weight"))
    ]
    return telling[0].down.shape[1] if telling else None


# ---- write


def save_lora(concept: Concept, path: str | Path, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
    """Write the concept as a LoRA that other tools open; read back, it is the same concept.

    config: of the model it was learnt on. dtype: float32 or float16. The same concept gives the same bytes. Raises
    ValueError for a concept that is more than low-rank changes of layers that other tools know, and for numbers that
    are not finite; OSError.
    """
    if dtype not in WRITTEN_DTYPES:
        raise ValueError(f"a LoRA is written as float32 or float16, not as {dtype}")
    low = {name: change for name, change in concept.changes.items() if isinstance(change, LowRank)}
    if other := [*(name for name in concept.changes if name not in low), *concept.words]:
        raise ValueError(f"a LoRA cannot hold {listed(other)}, which is no low-rank change; keep it as a concept")
    if not low:
        raise ValueError("this concept has no low-rank change; there is nothing to write as a LoRA")
    tensors: dict[str, Tensor] = {}
    for parameter, change in low.items():
        module = kohya_name(parameter)
        convolution = _is_convolution(parameter, config) and change.down.ndim == 2
        for side, matrix in (("down", change.down), ("up", change.up)):
            kept = matrix.detach().to("cpu", dtype).contiguous()
            tensors[f"{module}.lora_{side}.weight"] = kept[..., None, None] if convolution else kept.clone()
        tensors[f"{module}.alpha"] = torch.tensor(change.alpha, dtype=torch.float32)
    for name, tensor in tensors.items():
        check_values(name, tensor, None)
    notes = lora_notes(concept, low, config) | {RECORD_KEY: own_note(concept, LORA_NOTE)}
    with atomic(path) as temporary:
        Path(temporary).write_bytes(_in_order(save(tensors, notes)))


def lora_notes(concept: Concept, changes: Mapping[str, LowRank], config: ModelConfig) -> dict[str, str]:
    """What other tools read in a LoRA's header. The hash of the base's file is not among it: nobody knows that file."""
    ranks, alphas = ({value for c in changes.values() for value in [get(c)]} for get in (_rank, _alpha_of))
    prediction = config.noise.prediction
    family = {"sd15": "sd_v1", "sd21": "sd_v2", "sd21-base": "sd_v2"}.get(config.name)
    v2, of_v = family == "sd_v2", prediction == "v"
    size = {False: "stable-diffusion-v2-512", True: "stable-diffusion-v2-768-v"}[of_v] if v2 else "stable-diffusion-v1"
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": f"{ranks.pop()}" if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
        "ss_v2": str(v2),
        "ss_base_model_version": f"{family}{'_v' * of_v}" if family else config.name,
        "ss_sd_model_name": concept.base_name,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{size if family else config.name}/lora",
        "modelspec.title": concept.subject,
        "modelspec.prediction_type": PREDICTION[prediction],
        "modelspec.resolution": f"{config.native_size}x{config.native_size}",
        "modelspec.trigger_phrase": concept.subject,
    }


def _rank(change: LowRank) -> float:
    return change.rank


def _alpha_of(change: LowRank) -> float:
    return change.alpha


def _is_convolution(parameter: str, config: ModelConfig) -> bool:
    """Whether published models of that kind have a 1x1 convolution where we have a Linear layer."""
    entry = re.search(r"transformers\.\d+\.proj_(in|out)\.weight$", parameter)
    return parameter.startswith("unet.") and bool(entry) and not config.unet.linear_projection


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header sorted: the library writes several notes in an order that changes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
