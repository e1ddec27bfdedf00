"""When which swap is on, and which plans are refused."""

import dataclasses
import json

import pytest
import torch

from models.hooks import Site
from photoswap.blend import Blend
from photoswap.plan import SwapPlan
from photoswap.tokens import align

SELF = [Site("down", 0, 0, "self"), Site("down", 2, 0, "self"), Site("mid", 0, 0, "self")]
CROSS = [Site("up", 1, 0, "cross")]
SITES = SELF + CROSS


def kinds(plan, index, alignment=None):
    """Which quantity is swapped at each site: "phi", "M" or "A" by the slot that the hook fills."""
    named = {}
    for site, hook in plan.hooks(index, SITES, alignment).items():
        fills_output = hook.output(torch.arange(4.0)).tolist() != [0, 1, 2, 3]
        named[site] = "A" if site.kind == "cross" else "phi" if fills_output else "M"
    return named


def test_the_paper_is_the_default():
    plan = SwapPlan()
    assert (plan.steps, plan.output, plan.map, plan.cross, plan.guidance_scale) == (50, 10, 25, 20, 7.5)
    assert plan.blend is None and plan.align == "tokens"


def test_each_swap_lasts_for_its_first_steps():
    plan, phi, m, a = SwapPlan(), dict.fromkeys(SELF, "phi"), dict.fromkeys(SELF, "M"), dict.fromkeys(CROSS, "A")
    assert [kinds(plan, i) for i in (0, 9)] == [phi | a] * 2
    assert [kinds(plan, i) for i in (10, 19)] == [m | a] * 2
    assert [kinds(plan, i) for i in (20, 24)] == [m] * 2
    assert [plan.hooks(i, SITES) for i in (25, 49)] == [{}] * 2


@pytest.mark.parametrize(("name", "sites"), [("output", SELF), ("map", SELF), ("cross", CROSS)])
def test_zero_means_never_and_all_means_always(name, sites):
    none = {"output": 0, "map": 0, "cross": 0}
    assert all(SwapPlan(steps=5, **none).hooks(i, SITES) == {} for i in range(5))
    assert all(set(SwapPlan(steps=5, **none | {name: 5}).hooks(i, SITES)) == set(sites) for i in range(5))


def test_rows_output_in_both_halves_map_in_the_conditional_one():
    plan, rows = SwapPlan(), torch.arange(4.0)
    assert plan.hooks(0, SITES)[SELF[0]].output(rows).tolist() == [0, 0, 2, 2]
    q, k, v = plan.hooks(10, SITES)[SELF[0]].qkv(rows, rows, rows)
    assert (q.tolist(), k.tolist(), v.tolist()) == ([0, 1, 2, 2], [0, 1, 2, 2], [0, 1, 2, 3])
    q, k, v = plan.hooks(0, SITES)[CROSS[0]].qkv(rows, rows, rows)
    assert (q.tolist(), k.tolist(), v.tolist()) == ([0, 1, 2, 2], [0, 1, 2, 2], [0, 1, 2, 3])


def test_psi_is_never_swapped():
    out = torch.arange(4.0)
    for alignment in (None, align([1, 2], [1, 2])):
        assert SwapPlan().hooks(0, SITES, alignment)[CROSS[0]].output(out) is out


def test_an_alignment_takes_the_map_slot_and_an_index_copy_stays_fused():
    assert SwapPlan().hooks(0, SITES, align([1, 2], [1, 2]))[CROSS[0]].map is not None
    assert SwapPlan().hooks(0, SITES)[CROSS[0]].map is None


def test_the_map_may_be_limited_to_some_scales():
    plan = SwapPlan(map_scales=(4, 8), output=0, cross=0)
    assert set(plan.hooks(0, SITES)) == {site for site in SELF if site.scale >= 4}


def test_scaled_keeps_the_proportions():
    assert SwapPlan.scaled(50) == SwapPlan()
    assert SwapPlan.scaled(20) == SwapPlan(steps=20, output=4, map=10, cross=8)
    assert SwapPlan.scaled(20, map=0, guidance_scale=3.0) == SwapPlan(20, 4, 0, 8, 3.0)
    with pytest.raises(ValueError, match="steps is 0"):
        SwapPlan.scaled(0)


def test_guidance_may_follow_the_step():
    assert [SwapPlan.scaled(3).guidance(i) for i in range(3)] == [7.5] * 3
    assert [SwapPlan.scaled(3, guidance_scale=(1.0, 2.0, 3.0)).guidance(i) for i in range(3)] == [1, 2, 3]


def test_a_plan_is_a_value_that_json_can_hold():
    plan = SwapPlan(blend=Blend())
    assert plan == SwapPlan(blend=Blend()) and hash(plan) == hash(SwapPlan(blend=Blend()))
    assert json.loads(json.dumps(dataclasses.asdict(plan)))["blend"]["threshold"] == 0.3
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.map = 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"output": -1}, r"output is -1; want a whole number of steps, 0\.\.50"),
        ({"map": 51}, r"map is 51; want a whole number of steps, 0\.\.50"),
        ({"cross": 0.4}, r"cross is 0\.4; want"),
        ({"steps": 20}, r"map is 25; want a whole number of steps, 0\.\.20"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"align": "words"}, '"tokens" or "index"'),
        ({"guidance_scale": (7.5, 7.5)}, "2 values for 50 steps"),
        ({"map_scales": (3,)}, "map_scales"),
        ({"blend": Blend(start=51)}, "step 51"),
    ],
)
def test_senseless_plans_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SwapPlan(**settings)
