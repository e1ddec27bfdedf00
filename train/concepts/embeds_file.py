"""Textual Inversion's files (arXiv:2208.01618): the rows of the token embedding that a word means.

diffusers: learned_embeds.safetensors (or .bin) with {word: (n c) or (c)}. Automatic1111: "emb_params" (n c), or in a
.pt "string_to_param/*", and the name of the file is the word. A word of n rows stands for n tokens, one after another.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from train.concepts.concept import WRITTEN_DTYPES, Concept
from train.concepts.foreign import ForeignFile, foreign_concept, own_note
from weights.atomic import atomic
from weights.records import RECORD_KEY, check_values, listed, quoted

EMBEDS_NOTE = "words"
NAMELESS = ("emb_params", "string_to_param/*")
SDXL_KEYS = ("clip_l", "clip_g")
MOST_ROWS = 75  # that fit into a prompt


def is_embeds(names: list[str]) -> bool:
    """Whether a file of these tensors holds words."""
    return any(name in (*NAMELESS, *SDXL_KEYS) for name in names) or (
        0 < len(names) <= 100 and not any(re.search(r"[./](?:weight|bias)$|/", name) for name in names)
    )


def read_embeds(file: ForeignFile) -> Concept:
    """The words of a file. Raises ValueError for anything that is no row or several of a token embedding."""
    if set(SDXL_KEYS) & set(file.tensors):
        raise file.wrong("is an embedding for SDXL, with one for each of two text encoders; want one for SD 1.x or 2.x")
    nameless = [name for name in NAMELESS if name in file.tensors]
    if nameless and len(file.tensors) > 1:
        raise file.unknown([name for name in file.tensors if name != nameless[0]], "an embedding")
    named = {file.path.stem if nameless else name: tensor for name, tensor in file.tensors.items()}
    words = {word: rows_of(file, word, tensor) for word, tensor in named.items()}
    widths = {rows.shape[1] for rows in words.values()}
    if len(widths) > 1:
        raise file.wrong(f"holds words {sorted(widths)} wide; want one width")
    if own := file.own_about(EMBEDS_NOTE):
        return Concept(**vars(own), words=words)
    return foreign_concept(file, {}, words, width=widths.pop())


def rows_of(file: ForeignFile, word: str, tensor: Tensor) -> Tensor:
    """The rows (n c) of one word, checked."""
    rows = tensor[None] if tensor.ndim == 1 else tensor
    if not word.strip() or len(word.split()) != 1:
        raise file.wrong(f"would mean the word {quoted(word)}, which no prompt can hold: rename it to one word")
    if rows.ndim != 2 or not rows.numel() or len(rows) > MOST_ROWS:
        raise file.wrong(f"has {tuple(tensor.shape)} for {quoted(word)}; want 1 to {MOST_ROWS} rows (n, width)")
    return rows


def save_embeds(concept: Concept, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the concept's words as diffusers' learned_embeds.safetensors; read back, it is the same concept.

    Raises ValueError where it has none, or changes more than words, or has numbers that are not finite; OSError.
    """
    if dtype not in WRITTEN_DTYPES:
        raise ValueError(f"words are written as float32 or float16, not as {dtype}")
    if concept.changes or not concept.words:
        what = f"also changes {listed(concept.changes)}" if concept.changes else "has no word"
        raise ValueError(f"a file of words holds words alone, and this concept {what}; keep it as a concept")
    words = {word: rows.detach().to("cpu", dtype).clone().contiguous() for word, rows in concept.words.items()}
    for word, rows in words.items():
        check_values(word, rows, None)
    with atomic(path) as temporary:
        save_file(words, temporary, {RECORD_KEY: own_note(concept, EMBEDS_NOTE)})
