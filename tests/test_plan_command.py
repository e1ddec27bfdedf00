"""`photoswap swap --plan auto`: the plan is said and kept, the picture is that of its settings, a stop is no loss."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import PROMPT, files, refused, swap_arguments
from PIL import Image

from photoswap import plan_search
from photoswap.__main__ import main
from photoswap.plan_scores import Critic

QUICK = ["--steps", "3", "--size", "64", "--A", "1"]


@pytest.fixture
def line(pictures, tiny, tmp_path):
    """A swap whose subject is found in the middle: random weights see it everywhere."""
    mask = Image.new("L", (300, 180), 0)
    mask.paste(255, (100, 50, 200, 130))
    made = [str(a) for a in swap_arguments(pictures / "source.png", tiny, tmp_path / "out", *QUICK)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_search, "find_subject", lambda *_, **__: SimpleNamespace(mask=mask))
        yield made


def test_a_plan_is_the_swap_with_its_settings(line, tmp_path, capsys):
    assert main([*line, "--plan", "auto"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert files(tmp_path / "out") == ["grid.png", "result.png", "swap.json"]
    plan = json.loads((tmp_path / "out" / "swap.json").read_text())["settings"]["plan"]
    assert all(one["settings"]["A"] == 1 for one in plan["tried"])  # it was given, so it stays
    heads = next(i for i, one in enumerate(told) if one.split()[:3] == ["phi", "M", "A"])
    assert (
        len(told) == heads + 1 + len(plan["tried"]) + 2 and told[heads - 1] == 'plan for "a photo of a cat on grass":'
    )
    counted = f"{plan['row_calls']} rows of the network with judging, {plan['row_calls_apart']} for the swaps apart"
    assert told[-2] == f"plan: {len(plan['tried'])} tried, {counted}"
    flags = told[-1].removeprefix("plan: the same again by ").split()
    chosen = plan["tried"][plan["chosen"]]
    assert flags == ["--phi", str(chosen["settings"]["phi"]), "--M", str(chosen["settings"]["M"]), "--A", "1"]
    assert chosen["total"] == max(one["total"] for one in plan["tried"])
    again = [*line[: line.index("--A")], *line[line.index("--A") + 2 :], *flags, "--out", str(tmp_path / "again")]
    assert main(again) == 0
    for name in ("result.png", "grid.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert "plan" not in json.loads((tmp_path / "again" / "swap.json").read_text())["settings"]


def test_a_stopped_plan_goes_on(line, tmp_path, capsys, monkeypatch):
    assert main([*line, "--plan", "auto", "--at-once", "2", "--out", str(tmp_path / "whole")]) == 0
    scores, calls = Critic.scores, []

    def stopping(self, *more):
        calls.append(more)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return scores(self, *more)

    monkeypatch.setattr(Critic, "scores", stopping)
    capsys.readouterr()
    assert main([*line, "--plan", "auto", "--at-once", "2"]) == 130
    assert "plan-draft.json: the same command goes on" in capsys.readouterr().err
    assert files(tmp_path / "out") == ["plan-draft.json"]
    assert main([*line, "--plan", "auto", "--at-once", "2"]) == 0
    tried = json.loads((tmp_path / "out" / "swap.json").read_text())["settings"]["plan"]["tried"]
    assert tried == json.loads((tmp_path / "whole" / "swap.json").read_text())["settings"]["plan"]["tried"]
    assert len(calls) == 4 + len(tried) - 2 and files(tmp_path / "out") == files(tmp_path / "whole")


def test_each_target_has_a_plan_of_its_own_and_its_class_for_a_rival(line, concept, tmp_path, monkeypatch):
    asked, prompts = [], plan_search.rival_prompts
    monkeypatch.setattr(plan_search, "rival_prompts", lambda *more: asked.append(prompts(*more)) or asked[-1])
    start = line.index("--target")
    free = [*line[:start], *line[start + 2 :], "--phi", "0"]
    assert main([*free, "--concept", str(concept), "--plan", "auto"]) == 0
    assert asked == [("a photo of a sks cat on grass", "a photo of a cat on grass")]
    two = [*free, "--target", "fox", "--target", "hat", "--plan", "auto", "--out", str(tmp_path / "two")]
    assert main(two) == 0
    assert asked[1:] == [("a photo of a fox on grass", PROMPT), ("a photo of a hat on grass", PROMPT)]
    swaps = json.loads((tmp_path / "two" / "swap.json").read_text())["swaps"]
    assert all(one["method"]["M"] == one["plan"]["tried"][one["plan"]["chosen"]]["settings"]["M"] for one in swaps)
    assert not np.array_equal(*(np.array(Image.open(tmp_path / "two" / f"result-{i}.png")) for i in (1, 2)))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--method", "sdedit"], "sdedit injects nothing for so many steps that could be planned"),
        (["--phi", "1", "--M", "2"], "phi, M, A are given, which leaves nothing to plan"),
        (["--preset", "official", "--fractions", "0.4", "0.2", "0.3"], "--fractions changes nothing beside --plan"),
        (["--target-prompt", PROMPT, "--target", "dog"], "tells the target's prompt from the source's"),
    ],
)
def test_what_cannot_be_planned_is_said(flags, sentence, line, tmp_path, capsys):
    given = (
        line
        if flags[0] in ("--phi", "--target-prompt")
        else [*line[: line.index("--A")], *line[line.index("--A") + 2 :]]
    )
    given = (
        [word for i, word in enumerate(given) if "--target" not in (word, given[i - 1])] if "dog" in flags else given
    )
    assert sentence in refused(capsys, *given, *flags, "--plan", "auto")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_draft_of_ours_stays(line, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan-draft.json").write_text("mine")
    assert "holds no plan that was begun" in refused(capsys, *line, "--plan", "auto")
    assert (tmp_path / "out" / "plan-draft.json").read_text() == "mine"
