"""Concepts into a model: a new one that shares all they leave alone, or the same one, in place.

Several concepts of one base add up. Two that replace the same parameter, or mean something by the same word, do not:
which should win is not for the program to say.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

from torch import nn

from models.stable_diffusion import StableDiffusion
from models.tokenizer import Tokenizer
from train.concepts.changes import Added, Change, LowRank, Replaced, TokenRows, changed
from train.concepts.concept import Concept
from train.concepts.open import open_concept
from weights import identify, mismatch, with_concepts
from weights.checksum import digest_of
from weights.load import networks_of
from weights.names import NetworkName
from weights.records import listed, quoted, shown

EMBEDDING = "text.token_embedding.weight"
LARGEST_SCALE = 100.0


def apply_concept(
    model: StableDiffusion, *concepts: Concept | str | Path, scales: Sequence[float] | None = None
) -> StableDiffusion:
    """The model with the concepts in it: a new one, which shares with the old every tensor that they leave alone.

    model: the base that all of them were learnt on, on any device, in any dtype; it stays as it was. concepts: or the
    paths of their files, those of other tools included. scales: one for each, of what it adds, None for 1; what it
    replaces is replaced entirely. Raises ValueError when a concept was learnt on another base, names a parameter that
    the model lacks or has in another shape, or contradicts another one.
    """
    read = [_read(concept) for concept in concepts]  # before anything is copied: most refusals are of a file
    twin = replace(model, unet=_sharing(model.unet), vae=_sharing(model.vae), text_encoder=_sharing(model.text_encoder))
    _apply(twin, read, scales, emptying=False)
    return twin


def apply_in_place(
    model: StableDiffusion, *concepts: Concept | str | Path, scales: Sequence[float] | None = None
) -> None:
    """Put the concepts into the model itself, one parameter at a time, emptying them on the way.

    As for `apply_concept`, but memory stays at the model's, the concepts' and one parameter's, and ends at the
    model's: a `Concept` that was given keeps its prompts and settings and loses its tensors. Nothing is changed where
    ValueError is raised.
    """
    _apply(model, [_read(concept) for concept in concepts], scales, emptying=True)


def _read(concept: Concept | str | Path) -> Concept:
    return concept if isinstance(concept, Concept) else open_concept(concept)


def _sharing(network: nn.Module) -> Any:
    """A copy of the network whose tensors are those of the network."""
    tensors = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def _apply(model: StableDiffusion, concepts: list[Concept], given: Sequence[float] | None, emptying: bool) -> None:
    """Check everything, then change one parameter after the other."""
    scales = _scales(concepts, given)
    for concept in concepts:
        _check_base(model, concept)
    ids = _ids(model.tokenizer, len(model.text_encoder.token_embedding.weight), concepts)
    plan = _plan(concepts, scales, ids)
    _check(model, plan)
    base = identify(model)
    digests = [digest_of(c.tensors) + f" x {s!r}" * (s != 1) for c, s in zip(concepts, scales, strict=True)]
    if emptying:
        for concept in concepts:
            concept.changes.clear()
            concept.words.clear()
    networks = networks_of(model)
    for name in list(plan):
        network, _, parameter = name.partition(".")
        _set(networks[cast(NetworkName, network)], parameter, plan.pop(name), copied=not emptying)
    _know_words(model, ids)
    model.identity = with_concepts(model, base, *digests).identity


def _scales(concepts: list[Concept], given: Sequence[float] | None) -> list[float]:
    scales = [1.0] * len(concepts) if given is None else [float(scale) for scale in given]
    if len(scales) != len(concepts):
        raise ValueError(f"{len(scales)} scales for {len(concepts)} concepts; give one for each")
    for concept, scale in zip(concepts, scales, strict=True):
        if not abs(scale) <= LARGEST_SCALE:
            raise ValueError(f"the scale of {quoted(concept.title)} is {scale}; want at most {LARGEST_SCALE:g}")
        if scale != 1 and not any(isinstance(change, Added | LowRank) for change in concept.changes.values()):
            raise ValueError(
                f"the scale of {quoted(concept.title)} is {scale}, and it adds nothing that has a scale, it replaces "
                "values: leave the scale out"
            )
    return scales


def _check_base(model: StableDiffusion, concept: Concept) -> None:
    if not concept.base:
        return _check_shapes(model, concept)
    told = mismatch(model, concept.base)
    if told is None:
        return
    if model.identity and model.identity.concepts:
        told += ", which has a concept in it already (several are put onto their base together)"
    raise ValueError(
        f"the concept {quoted(concept.title)} was learnt on {shown(concept.base_name, 80)} "
        f"({shown(concept.base, 40)}) and {told}; load the base it was learnt on, or learn it again on this one"
    )


def _check_shapes(model: StableDiffusion, concept: Concept) -> None:
    """Of what another tool wrote, and says no more of its base: raise ValueError where it does not fit."""
    places = _places(model)
    wrong = [n for n, change in concept.changes.items() if n not in places or not change.fits(tuple(places[n].shape))]
    wrong += [word for word, rows in concept.words.items() if rows.shape[1:] != places[EMBEDDING].shape[1:]]
    if wrong:
        raise ValueError(
            f"{quoted(concept.title)} is for {shown(concept.base_name, 80)} and does not fit this model, "
            f"{model.config.name}, whose text states are {model.config.text.width} wide: {len(wrong)} of its parts are "
            f"unknown here or have another shape, {listed(wrong, 2)}; load the model it was made for"
        )
    said, here = concept.settings.get("modelspec.prediction_type"), model.config.noise.prediction
    if (said == "v") != (here == "v") and said in ("v", "epsilon"):
        warnings.warn(
            f"{quoted(concept.title)} was made on a model that predicts {said}, and this one predicts {here}: "
            "expect little of it",
            stacklevel=5,
        )


def _places(model: StableDiffusion) -> dict[str, nn.Parameter]:
    """Every parameter of the networks, under the name that a concept has for it."""
    return {f"{p}.{name}": t for p, network in networks_of(model).items() for name, t in network.named_parameters()}


def _ids(tokenizer: Tokenizer, vocabulary: int, concepts: list[Concept]) -> dict[str, tuple[int, ...]]:
    """For every word that a concept has rows for, the ids of those: its own, or new ones at the end.

    Raises ValueError when two concepts have the same word.
    """
    counts: dict[str, int] = {}
    for concept in concepts:
        for word, rows in concept.words.items():
            if word in counts:
                raise ValueError(f"two concepts mean something by {quoted(word)}; learn one of them under another word")
            counts[word] = len(rows)
    return word_ids(tokenizer, vocabulary, counts)


def word_ids(tokenizer: Tokenizer, vocabulary: int, counts: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The ids of words that have so many rows: a word's own, if it is one token of one row, or new ones at the end.

    vocabulary: how many rows the token embedding has.
    """
    ids: dict[str, tuple[int, ...]] = {}
    for word, count in counts.items():
        own = tuple(token for token, _ in tokenizer.words(word))
        ids[word] = own if len(own) == count == 1 else tuple(range(vocabulary, vocabulary + count))
        vocabulary = max(vocabulary, *(i + 1 for i in ids[word]))
    return ids


def knowing(tokenizer: Tokenizer, ids: Mapping[str, tuple[int, ...]]) -> Tokenizer:
    """A tokenizer that finds these words too."""
    return Tokenizer(tokenizer.padding, tokenizer.length, {**tokenizer.added, **ids})


Plan: TypeAlias = dict[str, list[tuple[Change, float]]]


def _plan(concepts: list[Concept], scales: list[float], ids: Mapping[str, tuple[int, ...]]) -> Plan:
    """Every change and its scale, by parameter. Raises ValueError when two concepts replace the same parameter."""
    plan: Plan = {}
    owners: dict[str, Concept] = {}
    for concept, scale in zip(concepts, scales, strict=True):
        replaces = [name for name, change in concept.changes.items() if isinstance(change, Replaced)]
        if twice := [name for name in replaces if name in owners]:
            raise ValueError(
                f"the concepts {quoted(owners[twice[0]].title)} and {quoted(concept.title)} both replace "
                f"{listed(twice)}; only one that replaces a parameter can be in a model"
            )
        owners |= dict.fromkeys(replaces, concept)
        for name, change in concept.changes.items():
            plan.setdefault(name, []).append((change, scale))
        for word, rows in concept.words.items():
            plan.setdefault(EMBEDDING, []).append((TokenRows(ids[word], rows), 1.0))
    return plan


def _check(model: StableDiffusion, plan: Plan) -> None:
    """Raise ValueError unless the model has every parameter, in the shape that its changes want."""
    places = _places(model)
    if unknown := [name for name in plan if name not in places]:
        raise ValueError(f"{len(unknown)} parameters are unknown here: {listed(unknown)}; is it for another network?")
    wrong = [n for n, several in plan.items() if not all(c.fits(tuple(places[n].shape)) for c, _ in several)]
    if wrong:
        raise ValueError(
            f"{len(wrong)} parameters have another shape here: {listed(wrong)}; is it for another network?"
        )


def _set(network: nn.Module, parameter: str, changes: list[tuple[Change, float]], copied: bool) -> None:
    """Put the changed parameter into the network. copied: never a tensor of the concept itself."""
    where, _, leaf = parameter.rpartition(".")
    module = network.get_submodule(where)
    old = getattr(module, leaf)
    new = changed(old.detach(), changes)
    if copied and any(new.data_ptr() == t.data_ptr() for change, _ in changes for t in change.tensors.values()):
        new = new.clone()
    setattr(module, leaf, nn.Parameter(new, old.requires_grad))


def _know_words(model: StableDiffusion, ids: Mapping[str, tuple[int, ...]]) -> None:
    """Have the tokenizer find the new words, and the configuration count them."""
    embedding = model.text_encoder.token_embedding
    new = {word: several for word, several in ids.items() if max(several) >= embedding.num_embeddings}
    if new:
        embedding.num_embeddings = len(embedding.weight)
        text = replace(model.config.text, vocabulary=embedding.num_embeddings)
        model.config = replace(model.config, text=text)
        model.tokenizer = knowing(model.tokenizer, new)
