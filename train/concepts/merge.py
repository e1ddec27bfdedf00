"""Several concepts of Custom Diffusion in one model, in closed form (arXiv:2212.04488, eq. 4 and appendix A).

Each concept has learnt its own keys and values. For every matrix the merged one is the nearest to the base's, measured
on the text states of ordinary prompts, that maps the states of each concept's own words as that concept does:

    minimise |(W - W0) K^T|  subject to  W c^T = v,
    W = W0 + (v^T - W0 c^T) (d c^T)^-1 d,   d = c C^-1,   C = K^T K

with a row of K (n w) for every token of the ordinary prompts, a row of c (m w) for every token that speaks of a concept
and, in v (m o), what the concept's own matrix makes of it. The authors' code leaves out "photo of a", which stands
before many prompts; so do we. All in float64, in which C, of condition 1e7 and more, can be solved.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.stable_diffusion import StableDiffusion
from train.concepts.apply import apply_concept
from train.concepts.changes import Change, Replaced, changed
from train.concepts.concept import Concept
from train.concepts.delta_file import TRAINED
from weights.records import listed, quoted

PROMPTS = ("{}", "a photo of {}")
COMMON = ("photo of a ", "a photo of ")


def merge_custom_diffusion(model: StableDiffusion, concepts: Sequence[Concept], ordinary: Sequence[str]) -> Concept:
    """One concept that has the words, keys and values of several.

    model: the base of all of them. ordinary: prompts that are to stay as they are, about 200 of any subject; their
    tokens together must span the text states. Raises ValueError where they do not, for a concept that changes anything
    but the keys and values of the cross-attention, and for two that mean something by one word.
    """
    if len(concepts) < 2:
        raise ValueError(f"there is nothing to merge in {len(concepts)} concepts; give two or more")
    for concept in concepts:
        if other := [
            n for n in concept.changes if not (TRAINED.fullmatch(n) and n.endswith(("to_k.weight", "to_v.weight")))
        ]:
            raise ValueError(f"{quoted(concept.title)} changes {listed(other)}, and only keys and values can be merged")
    together = apply_concept(model, *(Concept(**vars(one.about), words=one.words) for one in concepts))
    common = _states(together, ordinary, [_begins(prompt) for prompt in ordinary])
    targets = [_targets(together, concept) for concept in concepts]
    changes: dict[str, Change] = {}
    for name in dict.fromkeys(name for concept in concepts for name in concept.changes):
        base = model.unet.get_parameter(name.removeprefix("unet.")).detach().double().cpu()
        own = [changed(base, [(c.changes[name], 1.0)] if name in c.changes else []) for c in concepts]
        values = torch.cat([c @ weight.T for c, weight in zip(targets, own, strict=True)])
        changes[name] = Replaced(merged(base, common, torch.cat(targets), values).float())
    words = {word: rows for concept in concepts for word, rows in concept.words.items()}
    first, last = concepts[0], concepts[-1]
    return Concept(
        first.base,
        first.base_name,
        " and ".join([*(concept.subject for concept in concepts[:-1]), last.token]),
        last.class_word,
        "",
        "",
        {"merged": [concept.title for concept in concepts]},
        changes,
        words,
    )


def merged(base: Tensor, common: Tensor, targets: Tensor, values: Tensor) -> Tensor:
    """The matrix (o w) nearest to the base's on the rows of common (n w) that maps targets (m w) to values (m o).

    All float64. Raises ValueError where the rows of common do not span the states, or those of targets depend on one
    another.
    """
    width = base.shape[1]
    if (rank := int(torch.linalg.matrix_rank(common))) < width:
        raise ValueError(
            f"the ordinary prompts span {rank} of {width} directions of the text states; give more of them"
        )
    if int(torch.linalg.matrix_rank(targets)) < len(targets):
        raise ValueError(
            f"the {len(targets)} tokens of the concepts depend on one another; learn them under other words"
        )
    directions = torch.linalg.solve(common.T @ common, targets.T).T
    missing = values.T - base @ targets.T
    return base + missing @ torch.linalg.solve(directions @ targets.T, directions)


def _targets(model: StableDiffusion, concept: Concept) -> Tensor:
    """The states (m w) that speak of a concept, from its word to the end of the text, in either prompt."""
    if not concept.words or not concept.subject:
        raise ValueError(f"{quoted(concept.title)} has no word of its own; there is nothing to merge it by")
    prompts = [prompt.format(concept.subject) for prompt in PROMPTS]
    before = [len(model.tokenizer.words(prompt.partition("{}")[0])) for prompt in PROMPTS]
    return torch.unique(_states(model, prompts, before), dim=0)


def _begins(prompt: str) -> int:
    """How many tokens at its beginning do not count."""
    return 3 if prompt.lower().startswith(COMMON) else 0


def _states(model: StableDiffusion, prompts: Sequence[str], skipped: Sequence[int]) -> Tensor:
    """The text states (n w), float64, of the prompts' tokens, after the start and so many more, and end of text."""
    rows = []
    for prompt, skip in zip(prompts, skipped, strict=True):
        end = min(len(model.tokenizer.words(prompt)) + 1, model.config.text.length - 1)
        rows.append(model.encode_text(prompt)[0, 1 + skip : end + 1].double().cpu())
    return torch.cat(rows)
