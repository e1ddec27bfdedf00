"""train.concepts.merge: the closed form against the plain way of solving the same problem, in float64."""

import pytest
import torch
from tiny_model import tiny_model

from train.concepts import Added, Concept, Replaced, apply_concept, merge_custom_diffusion, save_concept
from train.concepts.merge import merged
from weights import fingerprint

TO_K, TO_V = (f"unet.mid.transformers.0.blocks.0.attn2.to_{which}.weight" for which in "kv")
NOUNS = ["dog", "cat", "house", "tree", "car", "boat", "table", "chair", "bird", "horse", "street", "city"]
ORDINARY = [f"photo of a {a} and the {b}" for a in NOUNS for b in NOUNS if a != b]


def slow(base, common, targets, values):
    """Row by row: minimise (w - w0) C (w - w0)^T subject to targets w = v, by the whole system of Lagrange's method."""
    c = common.T @ common
    zero = torch.zeros(len(targets), len(targets), dtype=c.dtype)
    system = torch.cat([torch.cat([c, targets.T], 1), torch.cat([targets, zero], 1)])
    rows = [torch.linalg.solve(system, torch.cat([c @ row, values[:, i]])) for i, row in enumerate(base)]
    return torch.stack(rows)[:, : len(c)]


def problem(seed=0, o=5, w=8, n=40, m=3):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((o, w), (n, w), (m, w), (m, o))]


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_the_constrained_minimum(seed):
    base, common, targets, values = problem(seed)
    found = merged(base, common, targets, values)
    # float64 rounding, times a condition of some hundreds
    torch.testing.assert_close(found, slow(base, common, targets, values), rtol=0, atol=1e-11)
    torch.testing.assert_close(targets @ found.T, values, rtol=0, atol=1e-11)


def test_any_other_matrix_that_satisfies_the_concepts_is_farther_on_the_ordinary_prompts():
    base, common, targets, values = problem()
    found = merged(base, common, targets, values)
    aside = torch.randn_like(base)
    aside = aside - aside @ torch.linalg.pinv(targets) @ targets  # changes nothing for the targets
    other = found + 0.1 * aside
    torch.testing.assert_close(targets @ other.T, values)
    assert ((other - base) @ common.T).norm() > ((found - base) @ common.T).norm()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def concept(model, word, seed, changes=None):
    g = torch.Generator().manual_seed(seed)
    shape = model.unet.mid.transformers[0].blocks[0].attn2.to_k.weight.shape
    kinds = {TO_K: Replaced(torch.randn(shape, generator=g)), TO_V: Added(torch.randn(shape, generator=g))}
    words = {word: torch.randn(1, model.config.text.width, generator=g)}
    about = (fingerprint(model), "tiny", word, "cat", "", "", {})
    return Concept(*about, kinds if changes is None else changes, words)


def test_each_word_gets_the_keys_and_values_its_own_concept_has(model, tmp_path):
    several = [concept(model, "<new1>", 1), concept(model, "<new2>", 2)]
    joined = merge_custom_diffusion(model, several, ORDINARY)
    assert joined.subject == "<new1> cat and <new2> cat"
    save_concept(joined, tmp_path / "both.safetensors")
    both = apply_concept(model, tmp_path / "both.safetensors")
    for one in several:
        alone, prompt = apply_concept(model, one), f"a photo of {one.subject}"
        at = slice(4, 7)  # the word, the class and the end of the text
        states = both.encode_text(prompt)[0, at]
        torch.testing.assert_close(states, alone.encode_text(prompt)[0, at])
        for name in ("to_k", "to_v"):
            merged_one, own = (getattr(m.unet.mid.transformers[0].blocks[0].attn2, name) for m in (both, alone))
            # the merged matrix is rounded to float32, and is larger than either
            torch.testing.assert_close(merged_one(states), own(states), rtol=1e-3, atol=1e-3)


def test_what_cannot_be_merged(model):
    one, two = concept(model, "<new1>", 1), concept(model, "<new2>", 2)
    other = concept(model, "<new3>", 3, {TO_K.replace("attn2", "attn1"): Replaced(torch.ones(1, 1))})
    wordless = Concept(**vars(one.about), changes=one.changes)
    for several, ordinary, told in (
        ([one], ORDINARY, "nothing to merge"),
        ([one, other], ORDINARY, "attn1.to_k"),
        ([one, concept(model, "<new1>", 4)], ORDINARY, "two concepts mean something"),
        ([one, two], ["a dog"], r"span \d+ of \d+ directions"),
        ([two, wordless], ORDINARY, "no word of its own"),
    ):
        with pytest.raises(ValueError, match=told):
            merge_custom_diffusion(model, several, ordinary)
