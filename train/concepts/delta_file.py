"""Custom Diffusion's files (arXiv:2212.04488): the keys and values of the cross-attention, and new words.

They hold the learnt weights themselves, in place of the base's. The authors' form is a pickle in the names of the
single file, {"state_dict": {..."attn2.to_k.weight": (o i), "embed": (n c)}}, whose words are <new1>, <new2>, ...
diffusers' is {"unet": {...}, "modifier_token": {"<new1>": (c)}}, or without the words a safetensors file with
".attn2.processor.to_k_custom_diffusion.weight"; its words then are files of their own. The authors' compressed files
hold, in place of a weight, what is added to the base's: {"u": (o r), "v": (r i)}.
"""

import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from models.stable_diffusion import StableDiffusion
from train.concepts.changes import Change, LowRank, Replaced, changed
from train.concepts.concept import WRITTEN_DTYPES, Concept
from train.concepts.embeds_file import rows_of
from train.concepts.foreign import ForeignFile, foreign_concept, note_tensor, own_note
from train.concepts.module_names import find
from weights.atomic import atomic
from weights.names import source, table
from weights.records import RECORD_KEY, listed, quoted

PLACE = re.compile(
    r"(?:unet/|unet\.)?(?P<layer>.+\.attn2)\.(?:processor\.)?(?P<which>to_(?:k|v|q|out(?:\.0)?))(?:_custom_diffusion)?"
    r"(?:\.0)?\.(?P<leaf>weight|bias)(?:/(?P<part>u|v))?"
)
WORD_KEY = re.compile(r"modifier_token/(?P<word>.+)")
EMBED, DELTA_NOTE = "embed", "delta"
TRAINED = re.compile(r"unet\..+\.attn2\.to_[kvq]\.weight|unet\..+\.attn2\.to_out\.(?:weight|bias)")


def is_delta(names: list[str]) -> bool:
    """Whether a file of these tensors is Custom Diffusion's."""
    return any(PLACE.fullmatch(name) for name in names)


def read_delta(file: ForeignFile) -> Concept:
    """The concept in a file of Custom Diffusion. Raises ValueError for tensors that none has."""
    found: dict[str, dict[str, Tensor]] = {}
    words: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in file.tensors.items():
        if (match := PLACE.fullmatch(name)) and (parameter := _parameter(match)):
            parts = found.setdefault(parameter, {})
            if (part := match["part"] or "") in parts:
                raise file.wrong(f"has {parameter} twice, under two names")
            parts[part] = tensor
        elif word := WORD_KEY.fullmatch(name):
            words[word["word"]] = rows_of(file, word["word"], tensor)
        elif name == EMBED and tensor.ndim == 2:
            words |= {f"<new{i}>": row[None] for i, row in enumerate(tensor, 1)}
        else:
            unknown.append(name)
    if unknown:
        raise file.unknown(unknown, "a file of Custom Diffusion")
    changes = {name: _change(file, name, parts) for name, parts in found.items()}
    if own := file.own_about(DELTA_NOTE):
        return Concept(**vars(own), changes=changes, words=words)
    telling = [
        next(iter(parts.values())) for name, parts in found.items() if name.endswith(("to_k.weight", "to_v.weight"))
    ]
    return foreign_concept(file, changes, words, width=telling[0].shape[-1] if telling else None)


def _parameter(match: re.Match[str]) -> str | None:
    layers = find(f"{match['layer']}.{match['which']}") or find(f"{match['layer']}.{match['which']}.0")
    return f"{layers[0].parameter.removesuffix('.weight')}.{match['leaf']}" if layers else None


def _change(file: ForeignFile, name: str, parts: dict[str, Tensor]) -> Change:
    if set(parts) == {""}:
        return Replaced(parts[""])
    u, v = parts.get("u"), parts.get("v")
    if u is None or v is None or u.ndim != 2 or v.ndim != 2 or u.shape[1] != len(v) or not len(v):
        shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
        raise file.wrong(f"has {shapes} for {quoted(name)}; want a weight, or u (o, r) and v (r, i)")
    return LowRank(u, v, float(len(v)))


def save_delta(
    concept: Concept,
    path: str | Path,
    model: StableDiffusion,
    form: Literal["diffusers", "ldm"] = "diffusers",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the concept as Custom Diffusion's own tools do, a pickle in one of their two forms.

    diffusers' form has our note of it beside what others look for, so that, read back, it is the same concept.
    model: the base, on which the weights are reckoned. Raises ValueError for a concept that changes anything but
    cross-attention and words, or whose words that form cannot name; OSError.
    """
    if dtype not in WRITTEN_DTYPES:
        raise ValueError(f"a delta is written as float32 or float16, not as {dtype}")
    if other := [name for name in concept.changes if not TRAINED.fullmatch(name)]:
        raise ValueError(f"a file of Custom Diffusion cannot hold {listed(other)}; keep it as a concept")
    places = dict(model.unet.named_parameters())
    names = table(model.config, "hf" if form == "diffusers" else "ldm", "unet")
    weights = {}
    for name, change in concept.changes.items():
        ours = name.removeprefix("unet.")
        if ours not in places or not change.fits(tuple(places[ours].shape)):
            raise ValueError(f"the model has no {name}, or in another shape; give the base the concept was learnt on")
        weights[source(ours, names).key] = _kept(changed(places[ours].detach(), [(change, 1.0)]), dtype)
    content: dict[str, Any] = {}
    if form == "diffusers":
        if several := [word for word, row in concept.words.items() if len(row) != 1]:
            raise ValueError(f"a file of Custom Diffusion has one row for a word, and {listed(several)} has more")
        words = {word: _kept(row[0], dtype) for word, row in concept.words.items()}
        content = {"unet": weights, "modifier_token": words, RECORD_KEY: note_tensor(own_note(concept, DELTA_NOTE))}
    else:
        wanted = {f"<new{i}>" for i in range(1, len(concept.words) + 1)}
        if set(concept.words) != wanted or any(len(row) != 1 for row in concept.words.values()):
            raise ValueError(f"the words of that form are <new1>, <new2>, ..., of one row, not {listed(concept.words)}")
        rows = [_kept(concept.words[word], dtype) for word in sorted(wanted, key=lambda word: int(word[4:-1]))]
        content = {"state_dict": weights | ({EMBED: torch.cat(rows)} if rows else {})}
    with atomic(path) as temporary:
        torch.save(content, temporary)


def _kept(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype, copy=True)
