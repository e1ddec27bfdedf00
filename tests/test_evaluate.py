"""The evaluation on a tiny random model: what it compares, and that its tables say what was measured."""

import pytest
from tiny_model import tiny_model

from photoswap.demo import make_task
from photoswap.evaluate import inversions, methods, report_inversions, report_swaps, swaps, swaps_grid
from photoswap.methods import Photoswap
from train.miniature.samples import sample_prompts, wrapped

BASE = Photoswap.scaled(4, guidance_scale=2.0)


def silent(items, desc):
    return items


def test_the_methods_differ_in_what_is_swapped_alone():
    found = methods(BASE)
    assert [(p.phi, p.M, p.A) for p in found.values()] == [(0, 0, 0), (0, 2, 2), (1, 2, 2)]
    assert {p.steps for p in found.values()} == {4} and {p.guidance_scale for p in found.values()} == {2.0}


def test_direct_inversion_loses_what_the_autoencoder_loses(capsys, monkeypatch):
    monkeypatch.setattr("photoswap.evaluate.INVERSIONS", ("ddim", "direct", "negative-prompt"))
    found = inversions(tiny_model(), [make_task(0)], 7.5, silent)
    assert found["direct"].returned == found["autoencoder"].returned
    assert found["direct"].alone == found["ddim"].alone == found["ddim"].returned != found["direct"].returned
    assert found["negative-prompt"].alone == found["negative-prompt"].returned != found["ddim"].returned
    report_inversions(found, 7.5)
    assert f"{found['direct'].returned:.1f} dB" in capsys.readouterr().out


def test_every_kind_of_swap_is_scored_on_every_scene(capsys):
    tasks = [make_task(i) for i in range(2)]
    found = swaps(tiny_model(), "sks", tasks, BASE, silent)
    assert all(len(outcomes) == 2 for outcomes in found.values())
    assert found["no swap"][0].background != found["Photoswap"][0].background
    report_swaps(found)
    said = capsys.readouterr().out
    assert all(name in said for name in (*found, "the source itself"))
    picture = swaps_grid(found)
    assert picture.width > 5 * 192 and picture.height > 2 * 192


def test_samples_follow_the_seed():
    first, again, other = (sample_prompts(tiny_model(), ["a cat"], seed, 2, 3.0)[0] for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()


@pytest.mark.parametrize("text", ["a photo of a cat", "a photo of a striped red and white cat with a blue scarf"])
def test_wrapping_loses_no_word(text):
    assert "a photo of " + wrapped(text).replace("\n", " ") == text
    assert max(map(len, wrapped(text).split("\n"))) <= 21
