"""What learning leaves on disk: the concept, one safetensors file that goes on top of its base, and the checkpoint to
resume from. Both are written atomically: a file is whole or absent.

Metadata is one JSON text under one key: with several keys the same content would not give the same bytes.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.stable_diffusion import StableDiffusion
from weights import identify, mismatch, with_concepts
from weights.atomic import atomic
from weights.checksum import digest_of
from weights.load import networks_of
from weights.names import Part

METADATA = "photoswap"
CONCEPT, CHECKPOINT, STRANGER = "concept", "learning checkpoint", "safetensors file of another program"
DTYPES = (torch.float32, torch.float16)


@dataclass(frozen=True)
class Concept:
    """A learnt subject: the weights that changed, and what it takes to use them.

    base: fingerprint of the model it was learnt on; base_name: its name. token and class_word: a prompt speaks of the
    subject as "token class_word". settings: the configuration it was learnt with. tensors: "unet.NAME" and, where the
    text encoder learnt too, "text.NAME" to values.
    """

    base: str
    base_name: str
    token: str
    class_word: str
    instance_prompt: str
    class_prompt: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)

    @property
    def subject(self) -> str:
        """How prompts call the subject, for instance "sks cat"."""
        return f"{self.token} {self.class_word}"


def save_concept(concept: Concept, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the concept as one safetensors file, atomically.

    dtype: float32, which keeps every bit, or float16, half the size. Raises ValueError for another dtype, OSError when
    the file cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"a concept is written as float32 or float16, not as {dtype}")
    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in concept.tensors.items()}
    about = {f.name: getattr(concept, f.name) for f in fields(concept) if f.name != "tensors"}
    write(path, CONCEPT, tensors, about)


def load_concept(path: str | Path) -> Concept:
    """Read a concept. Raises ValueError when there is no such file, or it is no whole concept."""
    tensors, about = read(path, CONCEPT)
    try:
        return Concept(**about, tensors=tensors)
    except TypeError as error:
        raise ValueError(f"{path} is a concept of another version of this program ({error}); learn it again") from error


def apply_concept(model: StableDiffusion, concept: Concept | str | Path) -> StableDiffusion:
    """The model with the concept in it: a new one, which shares with the old all that learning left alone.

    model: the base, on any device, in any dtype. concept: one, or the path of its file. Raises ValueError when
    the concept was learnt on another base, and when its tensors are not those of the networks.
    """
    concept = concept if isinstance(concept, Concept) else load_concept(concept)
    if told := mismatch(model, concept.base):
        raise ValueError(
            f"the concept {concept.subject!r} was learnt on {concept.base_name} ({concept.base}) and {told}; load the "
            "base it was learnt on, or learn it again on this one"
        )
    base = identify(model)
    parts = {name.split(".")[0] for name in concept.tensors}
    learnt: dict[Part, Any] = {p: copy.deepcopy(net) for p, net in networks_of(model).items() if p in parts}
    fill(learnt, concept.tensors)
    applied = replace(
        model,
        unet=learnt.get("unet", model.unet),
        vae=learnt.get("vae", model.vae),
        text_encoder=learnt.get("text", model.text_encoder),
    )
    return with_concepts(applied, base, digest_of(concept.tensors))


@torch.no_grad()
def fill(parts: Mapping[Part, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors named "part.name" into the networks, whose dtype and device stay. Strict: every name, every shape.

    Raises ValueError naming up to ten names that are missing, unknown or of another shape; nothing is copied then.
    """
    places = {f"{part}.{name}": p for part, network in parts.items() for name, p in network.state_dict().items()}
    strange = places.keys() ^ tensors.keys()
    strange |= {name for name in places.keys() & tensors.keys() if places[name].shape != tensors[name].shape}
    if strange:
        some = ", ".join(sorted(strange)[:10])
        raise ValueError(
            f"{len(strange)} tensors are missing, unknown or of another shape: {some}; is the file for another network?"
        )
    for name, place in places.items():
        place.copy_(tensors[name])


def write(path: str | Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, what kind of file it is and what is to be known about them, atomically. Raises OSError."""
    metadata = {METADATA: json.dumps({"kind": kind, **about}, sort_keys=True)}
    with atomic(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file of this kind, on the CPU, and what is known about them. Raises ValueError."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}; a {kind} was wanted")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(METADATA, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is no {kind}: not a safetensors file, or a truncated one ({error})") from error
    try:
        about = json.loads(metadata)
        found = about.pop("kind", STRANGER)
    except (json.JSONDecodeError, AttributeError, TypeError):
        found = STRANGER
    if found != kind:
        raise ValueError(f"{path} is a {found}; a {kind} was wanted")
    return tensors, about
