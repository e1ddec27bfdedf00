"""A learnt subject, and the file it is kept in: one safetensors file that goes on top of its base.

A file names a tensor after the parameter it changes: "unet.NAME" replaces it, "unet.NAME/added" is added, and
"unet.NAME/up", "/down" and "/alpha" are a low-rank change; "word/TEXT" are the rows of the token embedding that mean a
word. The first version had complete networks under the plain names and nothing else: it is read as it stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.concepts.changes import Added, Change, LowRank, Replaced
from weights.names import NETWORKS
from weights.records import FileKind, TensorRule, quoted, read, shown, write

WRITTEN_DTYPES = (torch.float32, torch.float16)
READ_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
WORD = "word/"


@dataclass(frozen=True)
class ConceptAbout:
    """What a concept's file says beside its tensors; as for `Concept`."""

    base: str
    base_name: str
    token: str
    class_word: str
    instance_prompt: str
    class_prompt: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Concept(ConceptAbout):
    """A learnt subject: what changes in the model, and what it takes to use it.

    base: fingerprint of the model it was learnt on; base_name: its name. What other tools wrote tells no fingerprint:
    there base is empty, base_name says what kind of model it is for, and the shapes have to fit. token and class_word:
    a prompt speaks of the subject as "token class_word". settings: the configuration it was learnt with. changes: by
    parameter, "unet.NAME" or "text.NAME"; what is not named stays as it is. words: rows (n c) of the token embedding by
    the word that they mean, one the tokenizer has as a single token, or a new one.
    """

    changes: dict[str, Change] = field(default_factory=dict)
    words: dict[str, Tensor] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """How prompts call the subject, for instance "sks cat"; empty where nothing says."""
        return f"{self.token} {self.class_word}".strip()

    @property
    def title(self) -> str:
        """What to call it in an error: its subject, or else its file."""
        return self.subject or str(self.settings.get("file", ""))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that was learnt, under the names a file has for it."""
        changes = {f"{name}{key}": t for name, change in self.changes.items() for key, t in _tensors(change).items()}
        return changes | {f"{WORD}{word}": rows for word, rows in self.words.items()}

    @property
    def about(self) -> ConceptAbout:
        """The same without its tensors."""
        return ConceptAbout(**{name: getattr(self, name) for name in ConceptAbout.__dataclass_fields__})


CONCEPT_KIND = FileKind(
    "concept",
    ConceptAbout,
    {
        "*/up": TensorRule(dtypes=READ_DTYPES, wanted=False),
        "*/down": TensorRule(dtypes=READ_DTYPES, wanted=False),
        "*/alpha": TensorRule((), dtypes=READ_DTYPES, limits=(-1e6, 1e6), wanted=False),
        f"{WORD}*": TensorRule(dtypes=READ_DTYPES, wanted=False),
        **{f"{network}.*": TensorRule(dtypes=READ_DTYPES, wanted=False) for network in NETWORKS},
    },
    limits={"token": (1, 200), "class_word": (0, 200), "base": (1, 200), "base_name": (0, 200)},
    version=2,
    upgrade=lambda version, about: about,
    again="learn it again",
)


def replaced(tensors: Mapping[str, Tensor]) -> dict[str, Change]:
    """Changes that put these values in place of the parameters of the same names."""
    return {name: Replaced(tensor) for name, tensor in tensors.items()}


def save_concept(concept: Concept, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the concept as one safetensors file, complete or not at all.

    dtype: float32, which keeps every bit, or float16, half the size. Raises ValueError for another dtype and for a
    concept that `load_concept` would refuse, OSError when the file cannot be written.
    """
    if dtype not in WRITTEN_DTYPES:
        raise ValueError(f"a concept is written as float32 or float16, not as {dtype}")
    tensors = {
        name: tensor.detach().to("cpu", torch.float32 if name.endswith("/alpha") else dtype)
        for name, tensor in concept.tensors.items()
    }
    _changes(tensors)
    write(path, CONCEPT_KIND, tensors, concept.about)


def load_concept(path: str | Path) -> Concept:
    """Read a concept. Raises ValueError when there is no such file, or it is no usable concept."""
    tensors, about = read(path, CONCEPT_KIND)
    try:
        changes, words = _changes(tensors)
    except ValueError as error:
        raise CONCEPT_KIND.damaged(path, error) from None
    return Concept(**vars(about), changes=changes, words=words)


def _tensors(change: Change) -> dict[str, Tensor]:
    if isinstance(change, Replaced | Added | LowRank):
        return change.tensors
    raise ValueError("rows of the token embedding are kept by their word; put them among the concept's words")


def _changes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Change], dict[str, Tensor]]:
    """What the tensors of a file say, by parameter and by word. Raises ValueError when it is no change."""
    words = {name.removeprefix(WORD): t for name, t in tensors.items() if name.startswith(WORD)}
    for word in words:
        if not word.strip() or len(word.split()) != 1:
            raise ValueError(f"the word {quoted(word)} is none that a prompt can hold")
        if words[word].ndim != 2 or not len(words[word]):
            raise ValueError(f"the word {quoted(word)} has rows {tuple(words[word].shape)}; want (n, width)")
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not name.startswith(WORD):
            parameter, _, key = name.partition("/")
            found.setdefault(parameter, {})[key] = tensor
    changes = {name: _change(name, kept) for name, kept in found.items()}
    if not changes and not words:
        raise ValueError("it changes nothing")
    return changes, words


def _change(name: str, kept: Mapping[str, Tensor]) -> Change:
    keys = set(kept)
    if keys == {""}:
        return Replaced(kept[""])
    if keys == {"added"}:
        return Added(kept["added"])
    if keys in ({"up", "down"}, {"up", "down", "alpha"}):
        up, down = kept["up"], kept["down"]
        if min(up.ndim, down.ndim) < 2 or up.shape[1] != len(down) or not len(down):
            raise ValueError(f"{shown(name, 80)} has up {tuple(up.shape)} and down {tuple(down.shape)}; want one rank")
        return LowRank(up, down, float(kept["alpha"]) if "alpha" in kept else float(len(down)))
    raise ValueError(f"{shown(name, 80)} has {', '.join(map(repr, sorted(keys)))[:80]}, which is no change")
