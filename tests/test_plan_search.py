"""Which settings are tried, what it costs, which win; a plan is the swap with its settings; a stopped one goes on."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from swap_model import SOURCE, TARGET, picture, swap_model

from photoswap import plan_search
from photoswap.blend import Blend
from photoswap.inversion import invert_image, synthesize
from photoswap.masks import Found
from photoswap.methods import METHODS, Photoswap, official
from photoswap.pipeline import SwapRequest, rows_alone, swap
from photoswap.plan_scores import Critic
from photoswap.plan_search import TRIED_AT_ONCE, TRIED_VALUES, alternatives, plan_swap, rival_prompts

STEPS = 5
WORDS = {"source_word": "cat", "target_word": "sks cat"}


@pytest.fixture(scope="module")
def model(device):
    return swap_model(device)


@pytest.fixture(scope="module", autouse=True)
def subject():
    """The middle is found by any word: random weights see it everywhere."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_search, "find_subject", lambda *_, **__: Found(mask, (16, 16, 48, 48), torch.zeros(64, 64)))
        yield


@pytest.fixture(scope="module")
def request_(model):
    inversion = invert_image(model, picture(64, 64), SOURCE, steps=STEPS, size=(64, 64))
    return SwapRequest(inversion, TARGET, Photoswap.scaled(STEPS), **WORDS)


@pytest.fixture(scope="module")
def found(model, request_):
    return plan_swap(model, request_, fixed=("A",), at_once=4)


def lambdas(methods):
    return [(method.phi, method.M, method.A) for method in methods]


def test_what_is_tried_is_all_combinations_that_inject_something_else():
    tried = lambdas(alternatives(Photoswap()))
    assert tried[0] == (10, 25, 20) and len(tried) == len(set(tried)) == 27
    assert set(lambdas(alternatives(Photoswap.scaled(10)))) == {
        (p, m, a) for p in (0, 2, 4) for m in (0, 5, 8) for a in (0, 4, 8)
    }
    # where phi lasts as long as M, M changes nothing: 5, 0 and 5, 4 are the same
    few = lambdas(alternatives(Photoswap(steps=5, phi=2, M=2, A=2), fixed=("phi", "A")))
    assert few == [(2, 2, 2), (2, 4, 2)]
    released = alternatives(official(50))
    assert released[0] == official(50) and all(method.blend == official(50).blend for method in released)


@pytest.mark.parametrize("name", TRIED_VALUES)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_every_method_s_values_are_settings_it_may_have(name, steps):
    base = METHODS[name].scaled(steps)
    tried = alternatives(base)
    assert tried[0] == base and set(TRIED_VALUES[name]) <= set(base.injected)
    assert steps == 1 or len(tried) > 2
    for method in tried:
        assert method.beside_injections == base.beside_injections  # so that they are a tree


def test_every_method_that_injects_for_so_long_can_be_planned():
    assert TRIED_VALUES.keys() == {
        name for name, kind in METHODS.items() if kind.injected and "reference" not in kind.wants
    }
    with pytest.raises(ValueError, match="reference-attention takes its subject from a picture"):
        alternatives(METHODS["reference-attention"]())
    with pytest.raises(ValueError, match="sdedit injects nothing for so many steps that could be planned; want photos"):
        alternatives(METHODS["sdedit"]())
    with pytest.raises(ValueError, match="phi, M, A are given, which leaves nothing to plan"):
        alternatives(Photoswap(), fixed=("phi", "M", "A"))


def test_a_rival_is_of_the_class_or_the_source(request_):
    assert rival_prompts(request_, "fox") == (TARGET, "a photo of a fox on a mat")
    assert rival_prompts(request_) == rival_prompts(request_, "sks cat") == (TARGET, SOURCE)
    with pytest.raises(ValueError, match="tells the target's prompt from the source's, and both are"):
        rival_prompts(replace(request_, target_prompt=SOURCE))


def test_the_chosen_swap_is_the_swap_with_its_settings_bit_for_bit(model, request_, found):
    planned = swap(model, request_.inversion, TARGET, found.method, **WORDS)
    explicit = swap(model, request_.inversion, TARGET, Photoswap(steps=STEPS, **found.settings), **WORDS)
    assert planned.result.tobytes() == explicit.result.tobytes()
    assert planned.target_latents.equal(explicit.target_latents)


def test_the_largest_sum_of_stretched_scores_wins(found):
    assert found.tried[0].settings == {"phi": 1, "M": 2, "A": 2}
    columns = {name: [one.scores[name] for one in found.tried] for name in ("background", "identity")}
    for one in found.tried:
        parts = [(one.scores[name] - min(all_)) / (max(all_) - min(all_)) for name, all_ in columns.items()]
        assert one.total == pytest.approx(sum(parts))
    best = max(found.tried, key=lambda one: one.total)
    assert found.tried[found.chosen] == best and found.settings == best.settings
    assert vars(found.method)["phi"] == best.settings["phi"]


def test_scores_are_of_the_swaps_themselves(model, request_, found):
    """Each by itself; in a tree they round otherwise."""
    for one in (found.tried[1], found.tried[-1]):
        request = replace(request_, method=Photoswap(steps=STEPS, **one.settings))
        alone = plan_swap(model, request, fixed=("M", "A"), at_once=1)
        assert alone.tried[0].settings == one.settings
        assert alone.tried[0].scores == pytest.approx(one.scores, rel=1e-3)
    assert found.tried[1].scores != pytest.approx(found.tried[-1].scores, rel=1e-3)


def test_prefixes_are_shared_and_rows_counted(model, request_, monkeypatch):
    rows, forward = [], model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda z, *more: (rows.append(len(z)), forward(z, *more))[1])
    whole = plan_swap(model, request_, fixed=("A",), at_once=100)
    assert whole.row_calls == sum(rows) + 3  # of the mask, which is not looked for here
    judging = 12 * len(whole.tried) + 3
    methods = alternatives(request_.method, ["A"])
    assert whole.row_calls_apart == sum(rows_alone(model, replace(request_, method=one)) for one in methods)
    assert whole.row_calls - judging < 0.7 * whole.row_calls_apart
    rows.clear()
    parted = plan_swap(model, request_, fixed=("A",), at_once=3)
    assert whole.row_calls < parted.row_calls == sum(rows) + 3 and parted.settings == whole.settings
    assert max(rows) <= 2 * 3 + 2 + 4  # which bounds the memory


def test_a_stopped_plan_goes_on_to_the_same_end(model, request_, found, tmp_path, monkeypatch):
    file, scores, calls = tmp_path / "draft.json", Critic.scores, []

    def stopping(self, *more):
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return scores(self, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Critic, "scores", stopping)
        plan_swap(model, request_, fixed=("A",), at_once=4, draft=file)
    assert len(next(iter(json.loads(file.read_text())["drafts of plans"].values()))["scores"]) == 4
    monkeypatch.setattr(Critic, "scores", lambda self, *more: (calls.append(1), scores(self, *more))[1])
    again = plan_swap(model, request_, fixed=("A",), at_once=4, draft=file)
    assert calls.count(1) == len(found.tried) - 4
    assert again.record() == {**found.record(), "row_calls": found.row_calls + 3}  # the mask, found again
    calls.clear()
    assert plan_swap(model, request_, fixed=("A",), at_once=4, draft=file).record() == again.record() and not calls
    # whatever it is of, another is begun anew
    for other in (replace(request_, adain=False, seed=1), replace(request_, method=Photoswap.scaled(STEPS, phi=0))):
        calls.clear()
        plan_swap(model, other, fixed=("phi", "A"), draft=file)
        assert calls
    file.write_text("mine")
    with pytest.raises(ValueError, match="holds no plan that was begun"):
        plan_swap(model, request_, fixed=("A",), at_once=4, draft=file)


def test_the_bar_shows_every_step_of_every_tree(model, request_, capsys):
    plan_swap(model, request_, fixed=("phi", "A"), at_once=2, progress=True)  # three swaps in two trees of five steps
    assert "plan of 3 swaps: 100%" in capsys.readouterr().err.split("\r")[-1]


def test_with_a_mask_the_background_is_kept_and_identity_decides(model, request_):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    kind = METHODS["swap-anything"]
    masked = replace(request_, method=kind.scaled(STEPS), mask=mask, source_word=None, target_word=None)
    plan = plan_swap(model, masked, fixed=("phi", "A"))
    assert {tuple(one.scores) for one in plan.tried} == {("identity",)}
    assert plan.tried[plan.chosen].scores == max((one.scores for one in plan.tried), key=lambda s: s["identity"])
    with pytest.raises(ValueError, match="give the source's word, or a mask"):
        plan_swap(model, replace(request_, source_word=None))


def test_other_methods_and_sources_are_planned_too(model):
    drawn = synthesize(model, SOURCE, 0, 3, size=(64, 64))
    request = SwapRequest(drawn, TARGET, METHODS["prompt-to-prompt"].scaled(3), mask=Image.new("L", (64, 64), 255))
    plan = plan_swap(model, request, fixed=("cross_replace_steps",))
    assert type(plan.method) is METHODS["prompt-to-prompt"] and len(plan.tried) > 1
    blended = SwapRequest(drawn, TARGET, Photoswap(steps=3, phi=0, M=1, A=1, blend=Blend(start=1)), **WORDS)
    assert plan_swap(model, blended, fixed=("phi", "A")).method.blend == Blend(start=1)


def test_a_table_of_all_the_best_first(found):
    lines = found.table().splitlines()
    assert lines[0].split() == ["phi", "M", "A", "background", "identity", "sum"] and len(lines) == 1 + len(found.tried)
    assert [int(word) for word in lines[1].split()[:3]] == list(found.settings.values())
    assert [line.split()[:3] for line in lines if line.endswith("*")] == [["1", "2", "2"]]
    told = json.loads(json.dumps(found.record()))
    assert told["chosen"] == found.chosen and told["tried"][0]["settings"] == found.tried[0].settings
    assert told["row_calls"] == found.row_calls


def counted_by_hand(methods):
    """Rows of a tree over a stored trajectory: two for each run that differs so far, and those of the source."""
    total, past = 0, dict.fromkeys(range(len(methods)), ())
    for step in range(50):
        plans = [("phi" if step < m.phi else "M" if step < m.M else "", step < m.A) for m in methods]
        past = {i: (*past[i], plan) for i, plan in enumerate(plans)}
        total += 2 * len(set(past.values())) + any(p[0] == "phi" for p in plans) + any(p[0] or p[1] for p in plans)
    return total


def test_the_page_says_what_a_plan_costs():
    methods = alternatives(Photoswap())
    parts = [methods[i : i + TRIED_AT_ONCE] for i in range(0, len(methods), TRIED_AT_ONCE)]
    told = re.sub(r"\s+", " ", (Path(__file__).parent.parent / "docs" / "plan.md").read_text())
    planned = sum(map(counted_by_hand, parts)) + 12 * len(methods) + 3
    apart, one = sum(counted_by_hand([method]) for method in methods), counted_by_hand([Photoswap()])
    assert f"they take {planned} rows of the network with judging, where the swaps apart would take {apart}" in told
    assert f"and one swap takes {one}." in told
