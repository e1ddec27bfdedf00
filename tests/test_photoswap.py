"""Photoswap's settings, the paper's and the released code's: what they inject when, and which are refused."""

import dataclasses
import json

import pytest
import torch

from models import UNet, UNetConfig
from models.hooks import Site
from photoswap.__main__ import build_parser
from photoswap.blend import Blend
from photoswap.commands.swap_flags import make_method
from photoswap.injections import COND, Injection
from photoswap.methods import Photoswap, PromptToPrompt, official

NEVER = {"phi": 0, "M": 0, "A": 0}


def said(method, step):
    """What is injected in a step: (quantity, halves)."""
    return [(injection.quantity, injection.halves) for injection in method.injections(step)]


def lambdas(method):
    return method.A, method.phi, method.M


def test_the_paper_is_the_default():
    method = Photoswap()
    assert (method.steps, method.phi, method.M, method.A, method.guidance_scale) == (50, 10, 25, 20, 7.5)
    assert method.blend is None and method.align == "tokens" and method.max_queries is None


def test_each_quantity_is_injected_in_its_first_steps_and_psi_never():
    phi, m, a = ("phi", ("uncond", "cond")), ("M", COND), ("A", COND)
    method = Photoswap()
    assert [said(method, i) for i in (0, 9)] == [[phi, a]] * 2
    assert [said(method, i) for i in (10, 19)] == [[m, a]] * 2
    assert [said(method, i) for i in (20, 24)] == [[m]] * 2
    assert [said(method, i) for i in (25, 49)] == [[]] * 2


@pytest.mark.parametrize("name", ["phi", "M", "A"])
def test_zero_means_never_and_all_means_always(name):
    assert all(said(Photoswap(steps=5, **NEVER), i) == [] for i in range(5))
    assert all([q for q, _ in said(Photoswap(steps=5, **NEVER | {name: 5}), i)] == [name] for i in range(5))


def test_A_is_aligned_or_copied_by_index():
    assert [i.alignment for i in Photoswap(phi=0, M=0).injections(0)] == ["tokens"]
    assert [i.alignment for i in Photoswap(phi=0, M=0, align="index").injections(0)] == [None]


def test_M_may_be_limited_by_the_number_of_queries():
    sites = [Site("down", 0, 0, "self"), Site("down", 1, 0, "self"), Site("down", 1, 0, "cross")]
    (injection,) = Photoswap(phi=0, A=0, max_queries=1024).injections(0)
    assert injection.at(sites, (64, 64)).addresses == (sites[1],)
    assert injection.at(sites, (32, 32)).addresses == (sites[0], sites[1])
    assert injection.at(sites, (96, 96)).addresses == ()


def test_scaled_keeps_the_proportions():
    assert Photoswap.scaled(50) == Photoswap()
    assert Photoswap.scaled(20) == Photoswap(steps=20, phi=4, M=10, A=8)
    assert Photoswap.scaled(20, M=0, guidance_scale=3.0) == Photoswap(steps=20, phi=4, M=0, A=8, guidance_scale=3.0)
    with pytest.raises(ValueError, match="steps is 0"):
        Photoswap.scaled(0)


def test_a_method_is_a_value_that_json_can_hold():
    method = Photoswap(blend=Blend())
    assert method == Photoswap(blend=Blend()) and hash(method) == hash(Photoswap(blend=Blend()))
    assert json.loads(json.dumps(dataclasses.asdict(method)))["blend"]["threshold"] == 0.3
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.M = 3


def test_official_at_fifty_steps():
    """The paper's 20, 10 and 25 steps, with phi's bound counted in; the rest is what the paper does not have."""
    method = official()
    assert (method.steps, method.guidance_scale, method.align, method.max_queries) == (50, 7.5, "tokens", 1024)
    assert lambdas(method) == (20, 11, 25)
    assert method.blend == Blend(threshold=0.3, start=10, scale=4)


@pytest.mark.parametrize(
    ("shares", "A", "phi", "M"),
    [
        ((0.6, 0.8, 0.0), 30, 41, 40),  # the released notebook's first example
        ((0.9, 0.9, 0.0), 45, 46, 45),  # and its second
        ((0.0, 0.0, 0.0), 0, 1, 0),  # phi is swapped at the first step even so
        ((1.0, 1.0, 0.0), 50, 50, 50),  # no more steps than there are
        ((0.5, 0.58, 0.0), 25, 29, 28),  # 50 * 0.58 is 28.999..., and is cut, not rounded
    ],
)
def test_shares_become_steps_as_the_released_code_has_it(shares, A, phi, M):
    assert lambdas(official(50, shares)) == (A, phi, M)


def test_official_scales_to_other_numbers_of_steps():
    assert lambdas(official(20)) == (8, 5, 10)
    assert lambdas(official(1)) == (0, 1, 0)
    assert [official(steps).blend.start for steps in (1, 20, 49, 100)] == [0, 4, 9, 20]


def test_official_may_be_changed_in_any_setting():
    method = official(20, (0.5, 0.5, 0.5), phi=0, blend=None, guidance_scale=3.0)
    assert lambdas(method) == (10, 0, 20) and method.blend is None and method.guidance_scale == 3.0


def test_the_blend_reads_the_five_layers_of_the_released_code():
    """Of the layers it stores, at most 32 x 32 places at 512 px: the third and fourth going down, three going up."""
    with torch.device("meta"):
        sites = UNet(UNetConfig()).sites
    stored = [site for site in sites if site.kind == "cross" and site.scale >= 2]
    down, up = ([site for site in stored if site.stage == stage] for stage in ("down", "up"))
    read = [site for site in sites if site.kind == "cross" and site.scale == official().blend.scale]
    assert len(read) == 5 and set(read) == {*down[2:4], *up[:3]}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Photoswap(phi=-1), r"phi is -1; want a whole number of steps, 0\.\.50"),
        (lambda: Photoswap(M=51), r"M is 51; want a whole number of steps, 0\.\.50"),
        (lambda: Photoswap(A=0.4), r"A is 0\.4; want"),
        (lambda: Photoswap(steps=20), r"M is 25; want a whole number of steps, 0\.\.20"),
        (lambda: Photoswap(steps=0), "steps is 0"),
        (lambda: Photoswap(steps=True), "steps is True"),
        (lambda: Photoswap(align="words"), '"tokens" or "index"'),
        (lambda: Photoswap(guidance_scale=(7.5, 7.5)), "2 values for 50 steps"),
        (lambda: Photoswap(blend=Blend(start=51)), "step 51"),
        (lambda: official(50, (1.1, 0, 0)), r"A is 1\.1; want 0\.\.1"),
        (lambda: official(50, (0, 0, -0.1)), r"M is -0\.1; want 0\.\.1"),
        (lambda: official(50, (0, 0.8, 0.3)), r"0\.8 and 0\.3 of the steps.*at most 1 together"),
        (lambda: official(0), "steps is 0"),
        (lambda: Injection("chi"), "no quantity 'chi'; want one of phi"),
        (lambda: Injection("M", alignment="tokens"), "an alignment belongs to A"),
        (lambda: Injection("M", joined=True), "keys and values can"),
    ],
)
def test_senseless_settings_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def from_flags(*flags):
    """The method of a command line."""
    arguments = build_parser().parse_args(["swap", "--prompt", "a dog", "--subject", "dog", "--target", "cat", *flags])
    return make_method(arguments, None, 7.5)


def test_the_command_line_chooses_a_method_and_its_settings():
    assert from_flags() == from_flags("--preset", "paper") == from_flags("--method", "photoswap") == Photoswap()
    assert from_flags("--preset", "official", "--steps", "20") == official(20)
    chosen = from_flags("--preset", "official", "--fractions", "0.6", "0.8", "0", "--blend", "0.5", "--A", "7")
    assert chosen == official(50, (0.6, 0.8, 0.0), A=7, blend=Blend(threshold=0.5))
    assert from_flags("--align", "index", "--blend") == Photoswap(align="index", blend=Blend())
    assert from_flags("--set", "phi=3", "--set", "align=index") == Photoswap(phi=3, align="index")
    other = from_flags("--method", "prompt-to-prompt", "--blend", "--set", 'equalizer=[["cat", 2]]')
    assert other == PromptToPrompt(equalizer=(("cat", 2),), blend=Blend())


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--fractions", "0.6", "0.8", "0"], "fractions belong"),
        (["--method", "prompt-to-prompt", "--set", 'equalizer=[["cat"]]'], "of the wrong kind"),
        (["--method", "photoswop"], "no method 'photoswop'; want one of photoswap"),
        (["--set", "chi=3"], "photoswap has no setting chi; it has steps, guidance_scale"),
        (["--set", "phi"], "want SETTING=VALUE"),
    ],
)
def test_flags_that_name_nothing_are_refused(flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_flags(*flags)
