"""The paper's settings and the released code's, as numbers and from the command line."""

import json

import pytest
import torch
from tiny_model import write_tiny_model

from models import UNet, UNetConfig
from photoswap.__main__ import build_parser, main
from photoswap.blend import Blend, watching
from photoswap.commands.swap import make_plan
from photoswap.plan import SwapPlan
from photoswap.presets import Fractions, preset


def lambdas(plan):
    return plan.cross, plan.output, plan.map


def test_the_paper_is_the_default():
    assert preset() == SwapPlan()
    assert preset("paper", 20, map=3, guidance_scale=2.0) == SwapPlan.scaled(20, map=3, guidance_scale=2.0)


def test_official_at_fifty_steps():
    """The paper's 20, 10 and 25 steps, with phi's bound counted in; the rest is what the paper does not have."""
    plan = preset("official")
    assert (plan.steps, plan.guidance_scale, plan.align, plan.map_scales) == (50, 7.5, "tokens", (2, 4, 8))
    assert lambdas(plan) == (20, 11, 25)
    assert plan.blend == Blend(threshold=0.3, start=10, scale=4)


@pytest.mark.parametrize(
    ("fractions", "cross", "output", "map"),
    [
        (Fractions(0.6, 0.8, 0.0), 30, 41, 40),  # the released notebook's first example
        (Fractions(0.9, 0.9, 0.0), 45, 46, 45),  # and its second
        (Fractions(0.0, 0.0, 0.0), 0, 1, 0),  # phi is swapped at the first step even so
        (Fractions(1.0, 1.0, 0.0), 50, 50, 50),  # no more steps than there are
        (Fractions(0.5, 0.58, 0.0), 25, 29, 28),  # 50 * 0.58 is 28.999..., and is cut, not rounded
    ],
)
def test_fractions_become_steps_as_the_released_code_has_it(fractions, cross, output, map):
    assert lambdas(preset("official", fractions=fractions)) == (cross, output, map)


def test_official_scales_to_other_numbers_of_steps():
    assert lambdas(preset("official", 20)) == (8, 5, 10)
    assert lambdas(preset("official", 1)) == (0, 1, 0)
    assert [preset("official", steps).blend.start for steps in (1, 20, 49, 100)] == [0, 4, 9, 20]


def test_official_may_be_changed_in_any_field():
    plan = preset("official", 20, Fractions(0.5, 0.5, 0.5), output=0, blend=None, guidance_scale=3.0)
    assert lambdas(plan) == (10, 0, 20) and plan.blend is None and plan.guidance_scale == 3.0


def test_the_blend_reads_the_five_layers_of_the_released_code():
    """Of the layers it stores, at most 32 x 32 places at 512 px: the third and fourth going down, three going up."""
    with torch.device("meta"):
        sites = UNet(UNetConfig()).sites
    stored = [site for site in sites if site.kind == "cross" and site.scale >= 2]
    down, up = ([site for site in stored if site.stage == stage] for stage in ("down", "up"))
    read = watching(preset("official").blend, sites, ([1], [1]), [])
    assert len(read) == 5 and set(read) == {*down[2:4], *up[:3]}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Fractions(cross=1.1), r"cross is 1\.1; want 0\.\.1"),
        (lambda: Fractions(map=-0.1), r"map is -0\.1; want 0\.\.1"),
        (lambda: Fractions(output=0.8), r"0\.8 and 0\.3 of the steps.*at most 1 together"),
        (lambda: preset("released"), "no preset 'released'; want paper or official"),
        (lambda: preset("paper", fractions=Fractions()), "fractions belong to the preset"),
        (lambda: preset("official", 0), "steps is 0"),
        (lambda: preset("official", 5, map=6), r"map is 6; want a whole number of steps, 0\.\.5"),
    ],
)
def test_senseless_settings_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def planned(*flags):
    """The plan of a command line."""
    arguments = build_parser().parse_args(["swap", "--prompt", "a dog", "--subject", "dog", "--target", "cat", *flags])
    return make_plan(arguments, None, 7.5)


def test_the_command_line_chooses_a_preset():
    assert planned() == planned("--preset", "paper") == SwapPlan()
    assert planned("--preset", "official", "--steps", "20") == preset("official", 20)
    chosen = planned("--preset", "official", "--fractions", "0.6", "0.8", "0", "--blend", "0.5", "--A", "7")
    assert chosen == preset("official", fractions=Fractions(0.6, 0.8, 0.0), cross=7, blend=Blend(threshold=0.5))
    assert planned("--align", "index", "--blend") == SwapPlan(align="index", blend=Blend())
    with pytest.raises(ValueError, match="fractions belong"):
        planned("--fractions", "0.6", "0.8", "0")


def test_the_record_of_a_swap_holds_the_preset_and_what_came_of_it(tmp_path):
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    words = ["--prompt", "a photo of a dog", "--subject", "dog", "--target", "sks cat"]
    flags = ["--model", str(model), "--device", "cpu", "--quiet", "--steps", "2", "--out", str(tmp_path / "out")]
    assert main(["swap", *words, "--preset", "official", *flags]) == 0
    settings = json.loads((tmp_path / "out" / "swap.json").read_text())["settings"]
    assert settings["preset"] == "official"
    assert settings["plan"]["blend"] == {"threshold": 0.3, "start": 0, "scale": 4}
    assert settings["plan"]["map_scales"] == [2, 4, 8] and settings["plan"]["output"] == 1
