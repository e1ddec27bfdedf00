"""The files of other tools, whatever they hold: their tensors, checked, and what is noted beside them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.concepts.changes import Change
from train.concepts.concept import CONCEPT_KIND, Concept, ConceptAbout
from weights.files import Checkpoint
from weights.parsing import LONGEST_TEXT, parse, parse_json
from weights.pickles import SUFFIXES, check_dtype, check_name, kind_of, read_pickle
from weights.quoting import QUOTED
from weights.records import FLOATS, RECORD_KEY, check_values, listed, quoted, shown

MOST = 5000  # tensors; the largest LoRA for these models, of all its layers, has some 1,600
LARGEST = 3 * 2**29  # bytes: 75 MB is a large delta, and the smallest published model has 2 GB
FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 1280: "SDXL's second text encoder", 2048: "SDXL"}


@dataclass(frozen=True)
class ForeignFile:
    """A file's tensors by their names, "OUTER/INNER" where a pickle nests them, and the notes in its header."""

    path: Path
    tensors: Mapping[str, Tensor] = field(repr=False)
    notes: Mapping[str, str] = field(default_factory=dict)

    def wrong(self, what: str) -> ValueError:
        """The error that says what is wrong with it."""
        return ValueError(f"{shown(self.path)} {what}")

    def unknown(self, names: list[str], kind: str) -> ValueError:
        """The error that names what such a file does not hold."""
        return self.wrong(f"holds {len(names)} tensors that {kind} for SD 1.x or 2.x does not have: {listed(names)}")

    def read_notes(self, text: str | None) -> dict[str, Any]:
        """The names and values of a note. Raises ValueError for any other text."""
        try:
            notes = parse_json(text or "{}")
        except ValueError as error:
            raise self.wrong(f"has notes that are damaged: {error}") from None
        if not isinstance(notes, dict):
            raise self.wrong(f"has notes {quoted(notes)}; want names and values")
        return notes

    def own_about(self, kind: str) -> ConceptAbout | None:
        """What we noted of a concept when we wrote it as such a file; None where another tool wrote it."""
        if RECORD_KEY not in self.notes:
            return None
        data = self.read_notes(self.notes[RECORD_KEY])
        if data.pop("kind", None) != kind or data.pop("version", None) != 1:
            raise self.wrong(f"is no {kind} of this version of the program; write it again")
        try:
            return parse(ConceptAbout, data, CONCEPT_KIND.limits)
        except ValueError as error:
            raise self.wrong(f"is a damaged {kind} ({error}): write it again") from None


def own_note(concept: Concept, kind: str) -> str:
    """What `ForeignFile.own_about` reads. Raises ValueError for a concept that it would refuse."""
    parse(ConceptAbout, vars(concept.about), CONCEPT_KIND.limits)
    return json.dumps({"kind": kind, "version": 1, **vars(concept.about)}, sort_keys=True)


def read_foreign(path: str | Path) -> ForeignFile:
    """Read the file of another tool, safetensors or a pickle, all its numbers finite.

    Raises ValueError when there is none, when it is damaged, asks for a program to be run, holds numbers that were
    quantised, or is as large as a model.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {shown(path)}; a concept, a LoRA or an embedding was wanted")
    if kind_of(path) is None:
        raise ValueError(
            f"{shown(path)} is no file of a concept, or only part of one: want a complete .safetensors file"
        )
    if path.stat().st_size > LARGEST:
        raise ValueError(
            f"{shown(path)} has {path.stat().st_size} bytes, as a model has and no concept: give a model with --model"
        )
    check_name(path)
    if path.suffix in SUFFIXES:
        tensors = read_pickle(path, nested=True)
        notes = _noted(tensors.pop(RECORD_KEY, None))
    else:
        file = Checkpoint(path)
        notes = file.metadata
        if len(file) > MOST:
            raise ValueError(f"{shown(path)} holds {len(file)} tensors; want at most {MOST}: it is no concept")
        tensors = dict(file)
    # Automatic1111's embeddings also count their tokens
    held = {name: tensor for name, tensor in tensors.items() if not name.startswith("string_to_token/")}
    try:
        for name, tensor in held.items():
            check_dtype(path, name, tensor.dtype)
            check_values(name, tensor, None)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{shown(path)} is damaged ({error})") from None
    return ForeignFile(path, held, notes)


def note_tensor(text: str) -> Tensor:
    """A note as a pickle of tensors holds it: its bytes."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _noted(tensor: Tensor | None) -> dict[str, str]:
    """The note that such bytes are."""
    if tensor is None or tensor.dtype != torch.uint8 or tensor.ndim != 1 or len(tensor) > LONGEST_TEXT:
        return {}
    return {RECORD_KEY: bytes(tensor.tolist()).decode(errors="replace")}


def foreign_concept(
    file: ForeignFile,
    changes: dict[str, Change],
    words: dict[str, Tensor] | None = None,
    notes: Mapping[str, Any] | None = None,
    width: int | None = None,
) -> Concept:
    """What the file holds as a concept that knows no base: its word, if it has one alone, is its subject.

    width: of the text states it was made for, which tells the family of models.
    """
    words = {word: _wide(rows) for word, rows in (words or {}).items()}
    token = " ".join(words)
    family = FAMILIES.get(width or 0, f"a model with text states {width} wide" if width else "another model")
    about = {"file": shown(file.path.name, QUOTED), **(notes or {})}
    return Concept("", family, token, "", f"a photo of {token}".strip(), "", about, changes, words)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in FLOATS else tensor.to(torch.float32)
