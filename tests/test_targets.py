"""Several targets, and several sources, in one run: each as if it ran alone, and the source's rows computed once."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from swap_model import SOURCE, TARGET, picture, swap_model
from tiny import distance

from photoswap.blend import Blend
from photoswap.inversion import invert_image
from photoswap.methods import METHODS, DiffEdit, InversionFree, Photoswap, PlugAndPlay, SDEdit
from photoswap.pipeline import SwapRequest, swap_all
from photoswap.staging import Reference
from weights.load import networks_of

STEPS = 5
DOG = "a photo of a sks dog on a mat"
ROUNDING = 1e-10  # float64: batches of other sizes add in another order; measured 5e-14 at most
SINGLE = 1e-4  # float32: random weights and guidance of 7.5 grow each step's rounding of 1e-7; measured 1.4e-5


def double_model(device, prediction="v"):
    model = swap_model(device, prediction)
    for network in networks_of(model).values():
        network.to(torch.float64)
    return model


@pytest.fixture(scope="module")
def model(device):
    return double_model(device)


def inverted(model, image, prompt, method="direct", steps=STEPS, **more):
    """An inversion whose latents are float64 too."""
    found = invert_image(model, image, prompt, method, steps, **more)
    return replace(found, trajectory=found.trajectory.double())


@pytest.fixture(scope="module")
def inversion(model):
    return inverted(model, picture(), SOURCE)


@pytest.fixture(scope="module")
def other(model):
    return inverted(model, picture(seed=1), "a photo of a fox in the snow")


def rows(result):
    return result.settings["row_calls"]


def held_against_separate_runs(model, requests, bound=ROUNDING):
    """The results of one run, once each is found to be that of its request alone."""
    together = swap_all(model, requests)
    alone = [swap_all(model, [request])[0] for request in requests]
    for one, own in zip(together, alone, strict=True):
        assert distance(one.source_latents, own.source_latents) <= bound
        assert distance(one.target_latents, own.target_latents) < bound
        shown = ("row_calls", "swaps_in_run")
        assert {k: v for k, v in one.settings.items() if k not in shown} == {
            k: v for k, v in own.settings.items() if k not in shown
        }
    assert distance(together[0].target_latents, together[-1].target_latents) > 1e-2
    return together, alone


def test_three_targets_take_one_source_s_rows(model, inversion):
    """Of rows that each takes alone, 2 are the source's in the step with phi and 1 in the two with M and A."""
    method = Photoswap.scaled(STEPS)
    requests = [SwapRequest(inversion, prompt, method) for prompt in (TARGET, DOG, "a photo of a hat on a mat")]
    together, alone = held_against_separate_runs(model, requests)
    assert [rows(one) for one in alone] == [4 + 3 + 2 + 2 + 2] * 3
    assert {rows(one) for one in together} == {8 + 7 + 6 + 6 + 6}


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_two_targets_of_two_sources_in_float32_and_in_float64(device, prediction):
    for model, bound in ((double_model(device, prediction), ROUNDING), (swap_model(device, prediction), SINGLE)):
        sources = [invert_image(model, picture(seed=seed), SOURCE, steps=STEPS) for seed in range(2)]
        if model.dtype == torch.float64:
            sources = [replace(source, trajectory=source.trajectory.double()) for source in sources]
        requests = [SwapRequest(one, prompt, Photoswap.scaled(STEPS)) for one in sources for prompt in (TARGET, DOG)]
        held_against_separate_runs(model, requests, bound)


def test_methods_words_and_masks_of_each(model, inversion):
    """A blend by its own words, a mask, and another preset's counts: what is not the same is not shared."""
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (32, 32, 96, 96))
    words = {"source_word": "cat", "target_word": "sks cat"}
    requests = [
        SwapRequest(inversion, TARGET, Photoswap.scaled(STEPS, blend=Blend()), **words),
        SwapRequest(inversion, DOG, Photoswap.scaled(STEPS, blend=Blend()), source_word="cat", target_word="sks dog"),
        SwapRequest(inversion, TARGET, Photoswap(steps=STEPS, phi=3, M=4, A=0), mask=mask, adain=True),
        SwapRequest(inversion, TARGET, PlugAndPlay(steps=STEPS)),
    ]
    held_against_separate_runs(model, requests)


@pytest.mark.parametrize(
    "method", [SDEdit(steps=STEPS), DiffEdit(steps=STEPS, num_maps_per_mask=1, mask_thresholding_ratio=2.0)]
)
def test_seeds_of_a_method_that_draws(model, inversion, method):
    requests = [SwapRequest(inversion, TARGET, method, seed=seed) for seed in (0, 1, 2)]
    held_against_separate_runs(model, requests)


def test_a_method_that_moves_the_source_gets_one_for_each_target(model, inversion):
    requests = [SwapRequest(inversion, TARGET, InversionFree(steps=STEPS), seed=seed) for seed in (0, 1)]
    together, alone = held_against_separate_runs(model, requests)
    assert rows(together[0]) == sum(rows(one) for one in alone)


@pytest.mark.parametrize("blend", [None, Blend()])
def test_any_number_of_sources(model, inversion, other, blend):
    """Two of the first source share its rows; the other pays for its own."""
    method = Photoswap.scaled(STEPS, blend=blend)
    foxes = {"source_word": "fox", "target_word": "bear"}
    requests = [
        SwapRequest(inversion, TARGET, method, source_word="cat", target_word="sks cat"),
        SwapRequest(other, "a photo of a bear in the snow", method, **foxes),
        SwapRequest(inversion, DOG, method, source_word="cat", target_word="sks dog"),
    ]
    together, alone = held_against_separate_runs(model, requests)
    assert rows(together[0]) == rows(alone[0]) + rows(alone[1]) + 2 * STEPS
    assert together[0].reconstruction.tobytes() == together[2].reconstruction.tobytes()
    assert together[0].reconstruction.tobytes() != together[1].reconstruction.tobytes()


def test_sources_that_are_not_known_beforehand(model):
    """By ddim each is computed to the end, once for all its targets."""
    source = inverted(model, picture(), SOURCE, "ddim")
    method = Photoswap.scaled(STEPS)
    together, alone = held_against_separate_runs(model, [SwapRequest(source, p, method) for p in (TARGET, DOG)])
    assert rows(alone[0]) == 4 * STEPS and rows(together[0]) == 6 * STEPS


def test_references_of_each(model, inversion, other):
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    method = METHODS["reference-attention"](steps=STEPS, start_step=1, start_layer=0)
    references = [Reference(shown, mask) for shown in (other, inversion)]
    held_against_separate_runs(
        model, [SwapRequest(inversion, TARGET, method, mask=mask, reference=shown) for shown in references]
    )


def test_what_one_run_cannot_hold(model, inversion):
    with pytest.raises(ValueError, match="at least one request"):
        swap_all(model, [])
    shorter = inverted(model, picture(), SOURCE, steps=2)
    with pytest.raises(ValueError, match=r"the methods take \[2, 5\] steps"):
        swap_all(model, [SwapRequest(inversion, TARGET), SwapRequest(shorter, TARGET)])
    wide = inverted(model, picture(192, 128), SOURCE, size=(192, 128))
    with pytest.raises(ValueError, match="want one size"):
        swap_all(model, [SwapRequest(inversion, TARGET), SwapRequest(wide, TARGET)])


def test_whoever_asks_sees_each_moment_and_may_end_the_run(model, inversion):
    seen = []
    (result,) = swap_all(model, [SwapRequest(inversion, TARGET)], on_moment=seen.append)
    assert [moment.step.index for moment in seen] == [*range(STEPS)]
    assert torch.equal(seen[-1].latents["target"], result.target_latents)

    def end(moment):
        seen.append(moment)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swap_all(model, [SwapRequest(inversion, TARGET)], on_moment=end)
    assert len(seen) == STEPS + 1
