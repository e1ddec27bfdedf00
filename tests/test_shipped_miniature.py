"""The miniature that is in the repository: that it has learnt what it is shipped for. Bounds leave room below what
`python -m photoswap.evaluate` and `python -m train.miniature.samples` show, for other machines round otherwise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.images import to_image, to_tensor
from photoswap.benchmark.scores import inside, outside, palette_match, psnr
from photoswap.demo import make_task
from photoswap.drawing import generate
from photoswap.evaluate import methods
from photoswap.inversion import invert_image, reconstruct
from photoswap.methods import Photoswap
from photoswap.pipeline import swap
from train.miniature.data import WORLDS, scene_at
from train.world import Look, caption, render
from weights.load import load

GUIDANCE = 3.0


@pytest.fixture(scope="module")
def miniature(device):
    return load("miniature", device)


@pytest.fixture(scope="module")
def task():
    return make_task(100)


@torch.no_grad()
def encoded_and_decoded(model, image):
    return to_image(model.decode(model.encode_image(to_tensor(image)[None]))[0])


def test_the_autoencoder_carries_the_picture_and_the_subject(miniature):
    pictures = [render(scene_at(WORLDS["small"], 20_000, i, unseen=True)) for i in range(8)]
    seen = [encoded_and_decoded(miniature, p.image) for p in pictures]
    assert np.mean([psnr(s, p.image) for s, p in zip(seen, pictures, strict=True)]) > 27
    assert np.mean([psnr(s, p.image, inside(p.mask)) for s, p in zip(seen, pictures, strict=True)]) > 22


def test_latents_have_unit_scale(miniature):
    pictures = torch.stack([to_tensor(render(scene_at(WORLDS["small"], 20_000, i)).image) for i in range(16)])
    with torch.no_grad():
        latents = miniature.encode_image(pictures)
    assert 0.8 < latents.std() < 1.2 and latents.mean().abs() < 0.3


@pytest.mark.parametrize("colour", ["red", "blue", "yellow"])
def test_samples_have_the_colour_that_the_prompt_names(miniature, colour):
    others = {"red": "blue", "blue": "yellow", "yellow": "red"}
    picture = generate(miniature, f"a photo of a {colour} car in the snow", seed=1, steps=25, guidance_scale=GUIDANCE)
    middle = np.zeros((128, 128), dtype=bool)
    middle[48:112, 24:104] = True
    scene = scene_at(WORLDS["small"], 0, 0)
    look = replace(Look("car", colour), second="white")
    scene = replace(scene, place="snow", light="day", pose=replace(scene.pose, x=0.5, size=0.75, floor=0.9))
    match = {c: palette_match(picture, render(scene.with_look(replace(look, colour=c))).image, middle) for c in others}
    assert max(match, key=match.__getitem__) == colour


@pytest.mark.parametrize(
    "method", ["direct", "ddim", "negative-prompt", pytest.param("null-text", marks=pytest.mark.slow)]
)
def test_inversions_at_full_guidance(miniature, task, method):
    """Direct returns to what the autoencoder makes of the source, two others to within 1 dB of it, DDIM far off."""
    picture, best = task.source.image, encoded_and_decoded(miniature, task.source.image)
    inversion = invert_image(miniature, picture, task.prompt, method, guidance_scale=7.5)
    again = reconstruct(miniature, inversion, 7.5)
    if method == "direct":
        assert again.tobytes() == best.tobytes()
    elif method == "ddim":
        assert psnr(again, picture) < psnr(best, picture) - 6
    else:
        assert psnr(again, picture) > psnr(best, picture) - 1


def test_the_swap_keeps_the_background_and_brings_the_look(miniature, task):
    """Either swap of attention keeps more of the background than none; which of them keeps more varies by scene."""
    scene = task.scene.with_look(Look("cat", "blue"))
    truth, source = render(scene), task.source
    ground, body = outside([source.mask, truth.mask]), inside(truth.mask)
    words = task.prompt, task.prompt.replace("a cat", "a blue cat")
    base = Photoswap(guidance_scale=GUIDANCE)
    inversion = invert_image(miniature, source.image, words[0])
    results = {name: swap(miniature, inversion, words[1], method).result for name, method in methods(base).items()}
    kept = {name: psnr(result, source.image, ground) for name, result in results.items()}
    assert kept["no swap"] + 0.5 < min(kept["Prompt-to-Prompt"], kept["Photoswap"])
    assert kept["Photoswap"] > 18
    assert palette_match(results["Photoswap"], truth.image, body) > palette_match(source.image, truth.image, body) + 0.2


def test_captions_of_the_sheet_were_never_trained_on():
    scenes = [scene_at(WORLDS["small"], 10_000, i, unseen=True) for i in range(24)]
    assert all(WORLDS["small"].unseen(scene.look) for scene in scenes)
    assert len({caption(scene) for scene in scenes}) == 24
