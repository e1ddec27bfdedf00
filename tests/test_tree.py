"""Runs that begin alike are a tree: each as if it ran alone, and what they share computed once."""

from dataclasses import replace
from itertools import combinations, product

import pytest
from PIL import Image
from swap_model import SOURCE, TARGET, picture
from test_targets import DOG, STEPS, double_model, held_against_separate_runs, inverted, rows

from photoswap.blend import Blend
from photoswap.methods import METHODS, InversionFree, Photoswap, SwapAnything
from photoswap.pipeline import SwapRequest, swap_all
from photoswap.staging import Reference

WORDS = {"source_word": "cat", "target_word": "sks cat"}
# Of every method, settings that differ in what is injected alone: the second parts from the first, the third later.
INJECTED = {
    "photoswap": [{"phi": 1, "M": 3, "A": 2}, {"phi": 2, "M": 3, "A": 2}, {"phi": 1, "M": 4, "A": 2}],
    "prompt-to-prompt": [{"self_replace_steps": 0.4}, {"cross_replace_steps": 0.4}, {"self_replace_steps": 0.8}],
    "plug-and-play": [{"pnp_attn_t": 0.4, "pnp_f_t": 0.6}, {"pnp_f_t": 0.6}, {"pnp_attn_t": 1.0, "pnp_f_t": 1.0}],
    "masactrl": [{"step": 1, "layer": 2}, {"step": 2, "layer": 2}, {"step": 2, "layer": 4}],
    "free-prompt-editing": [{"self_replace_steps": 0.4}, {"self_replace_steps": 0.8}, {"self_replace_steps": 0.6}],
    "swap-anything": [{"phi": 1}, {"phi": 2}, {"A": 4}],
    "reference-attention": [{"start_step": 1}, {"start_step": 2}, {"self_replace_steps": 0.4}],
}


@pytest.fixture(scope="module")
def model(device):
    return double_model(device)


@pytest.fixture(scope="module")
def inversion(model):
    return inverted(model, picture(), SOURCE, size=(64, 64))


def box(*corners):
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, corners)
    return mask


def counted_by_hand(methods):
    """Rows of a tree of Photoswaps over a stored trajectory: the target's two of every run that differs so far, and
    the source's: its unconditional one for phi alone, which takes both halves, its other one for anything."""
    total, past = 0, dict.fromkeys(range(len(methods)), ())
    for step in range(STEPS):
        plans = [("phi" if step < m.phi else "M" if step < m.M else "", step < m.A) for m in methods]
        past = {i: (*past[i], plan) for i, plan in enumerate(plans)}
        total += 2 * len(set(past.values()))
        total += any(plan[0] == "phi" for plan in plans) + any(plan[0] or plan[1] for plan in plans)
    return total


def test_a_grid_of_lambdas(model, inversion):
    methods = [Photoswap(steps=STEPS, phi=p, M=m, A=a) for p, m, a in product((0, 3), (2, 5), (1, 4))][1:7]
    together, alone = held_against_separate_runs(model, [SwapRequest(inversion, TARGET, m) for m in methods])
    assert [rows(one) for one in alone] == [counted_by_hand([m]) for m in methods]
    assert rows(together[0]) == counted_by_hand(methods) < 0.6 * sum(map(rows, alone))


@pytest.mark.parametrize("name", INJECTED)
def test_every_method_shares_what_it_injects(model, inversion, name):
    kind, more = METHODS[name], {}
    if "mask" in kind.wants:
        more["mask"] = box(32, 32, 96, 96)
    if "reference" in kind.wants:
        more["reference"] = Reference(inversion, box(0, 0, 64, 128))
    methods = [kind.scaled(STEPS, **settings) for settings in INJECTED[name]]
    together, alone = held_against_separate_runs(model, [SwapRequest(inversion, TARGET, m, **more) for m in methods])
    shared = sum(map(rows, alone)) - rows(together[0])
    source_alone = 2 * STEPS * len(methods)  # more than the source's rows could save
    assert shared > 0 and (shared > source_alone or rows(together[0]) < 2 * STEPS * len(methods) + 2 * STEPS)


def test_every_method_with_lambdas_is_held_to_it():
    assert INJECTED.keys() == {name for name, kind in METHODS.items() if kind.injected}


def test_a_blend_reads_the_row_that_is_computed_for_it(model, inversion):
    blended = [Photoswap(steps=STEPS, phi=1, M=m, A=2, blend=Blend(start=1)) for m in (3, 4)]
    together, alone = held_against_separate_runs(model, [SwapRequest(inversion, TARGET, m, **WORDS) for m in blended])
    # its source's conditional row is read to the end; the targets part at step 3
    assert rows(together[0]) == (2 + 2) + 3 + 3 + 5 + 5 and rows(alone[0]) == 4 + 3 * 4


def test_what_differs_otherwise_is_not_shared(model, inversion):
    method, mask = Photoswap.scaled(STEPS), box(32, 32, 96, 96)
    usual = SwapRequest(inversion, TARGET, method, mask=mask)
    others = [
        replace(usual, adain=True),
        replace(usual, mask=box(0, 0, 64, 64)),
        replace(usual, target_prompt=DOG),
        replace(usual, method=replace(method, guidance_scale=3.0)),
        replace(usual, method=SwapAnything.scaled(STEPS)),
    ]
    results = swap_all(model, [usual, *others])
    assert not any(a.target_latents.equal(b.target_latents) for a, b in combinations(results, 2))
    assert rows(results[0]) >= 2 * STEPS * len(results)


def test_the_same_twice_costs_nothing_more(model, inversion):
    method = Photoswap.scaled(STEPS)
    once, twice, alone = swap_all(model, [SwapRequest(inversion, TARGET, method)] * 2) + swap_all(
        model, [SwapRequest(inversion, TARGET, method)]
    )
    assert once.target_latents.equal(twice.target_latents) and once.target_latents.equal(alone.target_latents)
    assert rows(once) == rows(alone)


def test_noise_that_is_drawn_is_not_shared_by_other_seeds(model, inversion):
    requests = [SwapRequest(inversion, TARGET, InversionFree(steps=STEPS), seed=seed) for seed in (0, 1)]
    first, second = swap_all(model, requests)
    assert not first.target_latents.equal(second.target_latents)
