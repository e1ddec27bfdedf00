"""photoswap.web.forms and drawing: the controls as a command line that its own parser takes, and the timeline."""

import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from models.config import MINIATURE
from models.unet import UNet
from photoswap.commands.swap_flags import make_method
from photoswap.injections import timeline
from photoswap.methods import METHODS, Photoswap, official
from photoswap.web.drawing import in_words, status_html, timeline_svg
from photoswap.web.forms import InvertForm, LearnForm, SwapForm, command_line, model_words, parsed

OUT = Path("out")


def asked(form):
    return parsed(form.words(OUT))


def test_learn_says_what_the_controls_say():
    words = asked(LearnForm(Path("refs"), "cat", "xyz", 12, 3, "lora"))
    assert (words.command, words.references, words.class_word, words.token) == ("learn", [Path("refs")], "cat", "xyz")
    assert (words.steps, words.sample_every, words.method, words.out, words.resume) == (12, 3, "lora", OUT, False)
    assert parsed(LearnForm(Path("refs"), "cat").words(OUT, resume=True)).resume
    assert asked(LearnForm(Path("refs"), "cat")).steps is None


def test_invert_gives_guidance_only_to_what_is_made_under_it():
    words = asked(InvertForm(Path("a.png"), "a cat", "c.safetensors:0.5", "null-text", 20, 3.0))
    assert (words.inversion, words.steps, words.guidance) == ("null-text", 20, 3.0)
    assert str(words.concept[0]) == "c.safetensors:0.5"
    assert asked(InvertForm(Path("a.png"), "a cat", guidance=3.0)).guidance is None


def method_of(form):
    return make_method(asked(form), None, 7.5 if form.guidance is None else form.guidance)


def test_swap_makes_the_method_of_the_controls():
    lambdas = (("phi", 3), ("M", 7), ("A", 0))
    assert method_of(SwapForm(OUT, "cat", counts=lambdas)) == Photoswap(phi=3, M=7, A=0)
    released = method_of(SwapForm(OUT, "cat", preset="official", counts=(("phi", 3), ("M", 7), ("A", 2))))
    assert released == official(phi=3, M=7, A=2)
    index = method_of(SwapForm(OUT, "cat", counts=(("A", 4),), align="index", guidance=2.0, blend=0.5))
    assert (index.A, index.align, index.guidance_scale, index.blend.threshold) == (4, "index", 2.0, 0.5)
    other = method_of(SwapForm(OUT, "cat", method="masactrl", settings="step=3\n\n layer=5 "))
    assert (other.step, other.layer) == (3, 5)
    assert asked(SwapForm(OUT, "cat", method="sdedit", seed=7)).seed == 7
    assert asked(SwapForm(OUT, "cat", seed=7)).seed is None  # which draws nothing


@pytest.mark.parametrize("text", ["-a", "a 'cat' \"here\"", "$HOME; rm -rf /", "--", "a\nb", "é"])
def test_every_text_comes_through_a_shell_as_it_was(text):
    words = SwapForm(OUT, "cat", target=text).words(OUT)
    assert shlex.split(command_line(words)) == ["photoswap", *words]
    if text != "--":  # which the command refuses as a slip
        assert parsed(words).target == [text]


def test_a_mistake_is_the_command_s_own_sentence():
    with pytest.raises(ValueError, match="argument --subject: it is empty; want a word or more"):
        asked(SwapForm(OUT, " "))


def test_the_page_s_model_goes_into_every_line():
    page = parsed(["web", "--model", "sd21", "--dtype", "bfloat16", "--device", "cpu", "--prediction", "v"])
    assert model_words(page) == ["--model", "sd21", "--prediction", "v", "--device", "cpu", "--dtype", "bfloat16"]
    assert model_words(parsed(["web"])) == ["--model", "miniature"]


@pytest.fixture(scope="module")
def sites():
    with torch.device("meta"):
        return UNet(MINIATURE.unet).all_sites


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_timeline(name, sites):
    method = METHODS[name]()
    found = timeline(method.injections, method.steps, sites, (16, 16))
    drawn = ElementTree.fromstring(timeline_svg(found, method.steps, method.first))
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    named = {injection.quantity for _, injection in found}
    assert named <= set(texts) and str(method.steps) in texts
    assert all(quantity in in_words(found, method.steps) for quantity in named)


def test_the_bars_are_as_long_as_the_steps(sites):
    found = timeline(Photoswap(phi=10, M=25, A=20).injections, 50, sites, (16, 16))
    drawn = ElementTree.fromstring(timeline_svg(found, 50))
    bars = [one for one in drawn.iter() if one.tag.endswith("rect") and len(one)]
    told = [bar[0].text.split(".")[0] for bar in bars]
    assert told == ["phi: steps 1 to 10 of 50", "M: steps 11 to 25 of 50", "A: steps 1 to 20 of 50"]
    widths = [float(bar.get("width")) for bar in bars]
    assert widths == pytest.approx([66, 99, 132], abs=0.2)
    told = "phi in steps 1 to 10, A in steps 1 to 20, M in steps 11 to 25"
    assert in_words(found, 50) == f"Of 50 steps the target takes {told}."
    assert in_words([], 50) == "In none of 50 steps is anything taken from the source."


def test_nothing_that_is_typed_becomes_a_part_of_the_page():
    assert "<script>" not in status_html("<script>alert(1)</script>", 0.5) and "width:50%" in status_html("a", 0.5)
    assert 'role="alert"' in status_html("a", kind="bad")
