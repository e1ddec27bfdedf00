"""Any file of a concept, ours or another tool's: what it is, its content says."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from train.concepts.concept import Concept, load_concept
from train.concepts.delta_file import DELTA_NOTE, is_delta, read_delta
from train.concepts.embeds_file import EMBEDS_NOTE, is_embeds, read_embeds
from train.concepts.foreign import read_foreign
from train.concepts.lora_file import LORA_NOTE, is_lora, read_lora
from weights.parsing import parse_json
from weights.pickles import kind_of
from weights.records import RECORD_KEY, listed, shown

NOTED = (LORA_NOTE, EMBEDS_NOTE, DELTA_NOTE)  # kinds of file of other tools that bear our note where we wrote them
READERS = ((is_lora, read_lora), (is_delta, read_delta), (is_embeds, read_embeds))


def open_concept(path: str | Path) -> Concept:
    """Read a concept of ours, a LoRA, an embedding of Textual Inversion, or a delta of Custom Diffusion.

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
        f"{shown(path)} is no concept, LoRA, embedding or delta: it holds {listed(names, 3)}; a model goes to --model"
    )


def _is_ours(path: str | Path) -> bool:
    """Whether a file bears our mark, and not the note that we put into other tools' files; or cannot be read at all."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
    except (OSError, SafetensorError):
        return not Path(path).is_file() or kind_of(Path(path)) != "pickle"
    try:
        data = parse_json(notes[RECORD_KEY]) if RECORD_KEY in notes else {"kind": LORA_NOTE}
    except ValueError:
        return True
    return not isinstance(data, dict) or data.get("kind") not in NOTED
