"""Any file of a concept, ours or another tool's: what it is, its content says."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from train.concepts.concept import Concept, load_concept
from train.concepts.foreign import read_foreign
from train.concepts.lora_file import KIND, is_lora, read_lora
from weights.records import KEY, listed, parse_json, shown

READERS = ((is_lora, read_lora),)


def open_concept(path: str | Path) -> Concept:
    """Read a concept of ours, or a LoRA.

    Raises ValueError when there is no such file, when it is damaged, or when it is none of these.
    """
    if _is_ours(path):
        return load_concept(path)
    file = read_foreign(path)
    names = list(file.tensors)
    for recognised, reader in READERS:
        if recognised(names):
            return reader(file)
    raise ValueError(
        f"{shown(path)} is no concept, nor LoRA: it holds {listed(names, 3)}; a model goes to --model"
    )


def _is_ours(path: str | Path) -> bool:
    """Whether a file bears our mark, unless it is the one that we put on a LoRA."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
    except (OSError, SafetensorError):
        return False
    try:
        data = parse_json(notes[KEY]) if KEY in notes else {"kind": KIND}
    except ValueError:
        return True
    return not isinstance(data, dict) or data.get("kind") != KIND
