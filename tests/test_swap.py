"""Source and target side by side: which rows, which contexts, what is kept, what comes out."""

import json
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from swap_model import SOURCE, TARGET, picture, swap_model

from models.images import to_image, to_tensor
from photoswap.blend import Blend, subject_mask
from photoswap.drawing import generate, generate_latents
from photoswap.inversion import Inversion, invert_image, reconstruct, synthesize
from photoswap.methods import Photoswap
from photoswap.pipeline import swap
from photoswap.sizes import touched_cells
from samplers import guided_eps, sample

STEPS = 5
METHOD = Photoswap.scaled(STEPS)
NOTHING = {"phi": 0, "M": 0, "A": 0}
WORDS = {"source_word": "cat", "target_word": "sks cat"}


@pytest.fixture(scope="module")
def model(device):
    return swap_model(device)


@pytest.fixture(scope="module")
def inversion(model):
    return invert_image(model, picture(), SOURCE, steps=STEPS)


def latents(result):
    return result.source_latents, result.target_latents


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_source_row_decodes_to_exactly_what_the_autoencoder_makes_of_it(device, prediction):
    model = swap_model(device, prediction)
    result = swap(model, invert_image(model, picture(), SOURCE, steps=STEPS), TARGET, METHOD)
    with torch.no_grad():
        clean = model.encode_image(to_tensor(picture())[None])
        own = to_image(model.decode(clean)[0])
    assert torch.equal(result.source_latents, clean)
    assert result.reconstruction.tobytes() == own.tobytes()
    assert result.target.tobytes() != own.tobytes()


def test_the_same_call_gives_the_same_bytes(model, inversion):
    method = Photoswap.scaled(STEPS, blend=Blend())
    first, second = (swap(model, inversion, TARGET, method, **WORDS) for _ in range(2))
    assert first.result.tobytes() == second.result.tobytes() and first.settings == second.settings


def watched_calls(model, run):
    """What the U-Net is called with: latents, and the context that was prepared for the call."""
    seen, contexts, forward, prepare = [], {}, model.unet.forward, model.unet.prepare_context

    def preparing(context, room):
        prepared = prepare(context, room)
        contexts[prepared] = context
        return prepared

    def watched(rows, t, context, hooks):
        seen.append((rows, contexts[context]))
        return forward(rows, t, context, hooks)

    with patch.object(model.unet, "forward", watched), patch.object(model.unet, "prepare_context", preparing):
        run()
    assert len(contexts) == 3  # once for each phase
    return seen


def test_rows_are_uncond_source_uncond_target_cond_source_cond_target_while_phi_is_swapped(model, inversion):
    seen = watched_calls(model, lambda: swap(model, inversion, TARGET, METHOD))
    wanted = model.encode_text(["", "", SOURCE, TARGET])
    assert [len(rows) for rows, _ in seen] == [4, 3, 2, 2, 2]  # phi for one step, M and A for two
    for i, (rows, context) in enumerate(seen):
        kept = {4: [0, 1, 2, 3], 3: [1, 2, 3], 2: [1, 3]}[len(rows)]
        assert torch.allclose(context, wanted[kept], atol=1e-6)  # encoded in batches of another size
        sources = [place for place, row in enumerate(kept) if row in (0, 2)]
        assert all(torch.equal(rows[place], inversion.source_at(i - 1)[0]) for place in sources)
    assert torch.equal(seen[0][0][0], seen[0][0][1])


@torch.no_grad()
def plain(model, inversion, null, context, scale):
    eps = guided_eps(model.unet, model.schedule, null, context, scale)
    return sample(eps, inversion.source_at(-1), model.schedule.sampling(STEPS))


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_without_swaps_the_target_is_its_prompt_sampled_from_the_source_s_noise(device, prediction):
    model = swap_model(device, prediction)
    inversion = invert_image(model, picture(), SOURCE, steps=STEPS)
    result = swap(model, inversion, TARGET, Photoswap(steps=STEPS, **NOTHING))
    wanted = plain(model, inversion, model.encode_text(""), model.encode_text(TARGET), 7.5)
    assert torch.allclose(result.target_latents, wanted, atol=1e-4)  # batches of 4 and 2 rows, five guided steps


@pytest.mark.parametrize("align", ["tokens", "index"])
def test_a_synthetic_source_swapped_for_itself_is_itself(model, align):
    source = synthesize(model, SOURCE, 3, steps=STEPS)
    source_latents, target = latents(swap(model, source, SOURCE, Photoswap.scaled(STEPS, align=align)))
    assert torch.equal(source_latents, source.trajectory[:1])
    assert torch.allclose(target, source_latents, atol=1e-3)  # five guided steps, fused against mapped attention


@pytest.mark.parametrize("name", ["phi", "M", "A"])
def test_each_swap_changes_the_target_and_not_the_source(model, inversion, name):
    bare = swap(model, inversion, TARGET, Photoswap(steps=STEPS, **NOTHING))
    swapped = swap(model, inversion, TARGET, Photoswap(steps=STEPS, **NOTHING | {name: 2}))
    assert torch.equal(bare.source_latents, swapped.source_latents)
    assert not torch.allclose(bare.target_latents, swapped.target_latents, atol=1e-3)


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_a_ddim_source_follows_its_own_noise_estimate(device, prediction):
    model = swap_model(device, prediction)
    inversion = invert_image(model, picture(), SOURCE, "ddim", steps=STEPS)
    source, _ = latents(swap(model, inversion, TARGET, METHOD))
    wanted = plain(model, inversion, model.encode_text(""), model.encode_text(SOURCE), 7.5)
    assert torch.allclose(source, wanted, atol=1e-4)  # batches of 4 and 2 rows, five guided steps


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_null_contexts_serve_source_and_target(device, prediction):
    model = swap_model(device, prediction)
    for network in (model.unet, model.vae, model.text_encoder):
        network.to(torch.float64)  # eps at the noisiest step is divided by 0.07, and float32's rounding with it
    inversion = invert_image(model, picture(), SOURCE, "null-text", steps=STEPS, size=(64, 64))
    source, target = latents(swap(model, inversion, TARGET, Photoswap(steps=STEPS, **NOTHING)))
    nulls = inversion.null_contexts
    for row, prompt in ((source, SOURCE), (target, TARGET)):
        wanted = plain(model, inversion, lambda s: nulls[s.index][None], model.encode_text(prompt), 7.5)
        assert torch.allclose(row, wanted, atol=1e-10)  # batches of 4 and 2 rows, five guided steps


def test_guidance_for_each_step_is_used(model, inversion):
    constant, listed, falling = (
        swap(model, inversion, TARGET, Photoswap.scaled(STEPS, guidance_scale=scale)).target_latents
        for scale in (3.0, (3.0,) * STEPS, (3.0, 3.0, 2.0, 1.0, 1.0))
    )
    assert torch.equal(constant, listed) and not torch.equal(constant, falling)


def half_mask(size):
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.mark.parametrize("size", [(128, 128), (300, 200)])
def test_outside_a_user_s_mask_latents_and_pixels_are_the_source_s(model, size):
    source, mask = picture(*size), half_mask(size)
    inversion = invert_image(model, source, SOURCE, steps=STEPS)
    result = swap(model, inversion, TARGET, METHOD, mask=mask)
    outside = ~touched_cells(mask, result.target.size).expand_as(result.target_latents)
    assert outside.any() and torch.equal(result.target_latents[outside], result.source_latents[outside])
    assert not torch.equal(*latents(result))
    assert result.result.size == size
    kept = np.asarray(mask) == 0
    assert (np.asarray(result.result)[kept] == np.asarray(source)[kept]).all()
    assert (np.asarray(result.result)[~kept] != np.asarray(source)[~kept]).any()


def test_a_mask_works_on_a_synthetic_source(model):
    inversion = synthesize(model, SOURCE, 3, steps=STEPS)
    result = swap(model, inversion, TARGET, METHOD, mask=half_mask((128, 128)))
    right = np.s_[:, 64:]
    assert (np.asarray(result.result)[right] == np.asarray(result.reconstruction)[right]).all()


def test_the_blend_keeps_the_source_where_the_subject_is_not(model, inversion):
    heats, left = [], torch.arange(16, device=model.device).expand(1, 1, 16, 16) < 8

    def found(heat, blend, size):
        heats.append((heat, subject_mask(heat, blend, size)))
        return left

    with patch("photoswap.blend.subject_mask", found):
        result = swap(model, inversion, TARGET, Photoswap.scaled(STEPS, blend=Blend()), **WORDS)
    assert len(heats) == STEPS - 1  # from a fifth of the steps on
    assert all(mask.shape == left.shape for _, mask in heats)
    assert all((later > earlier).all() for (earlier, _), (later, _) in pairwise(heats))  # a running sum
    assert torch.equal(result.target_latents[..., 8:], result.source_latents[..., 8:])
    assert not torch.equal(*latents(result))


def test_a_blend_is_confined_to_the_user_s_mask(model, inversion):
    method = Photoswap.scaled(STEPS, blend=Blend(threshold=0.01))
    result = swap(model, inversion, TARGET, method, mask=half_mask((128, 128)), **WORDS)
    assert torch.equal(result.target_latents[..., 8:], result.source_latents[..., 8:])


def test_a_picture_of_another_shape_comes_back_at_its_own_size(model):
    inversion = invert_image(model, picture(300, 200), SOURCE, steps=STEPS)
    result = swap(model, inversion, TARGET, Photoswap.scaled(STEPS, blend=Blend()), **WORDS)
    assert result.target.size == (192, 128) and result.result.size == (300, 200)
    assert result.settings["size"] == [192, 128] and result.settings["source_size"] == [300, 200]


def test_an_inversion_from_a_file_swaps_the_same(model, inversion, tmp_path):
    inversion.save(tmp_path / "a.safetensors")
    loaded = Inversion.load(tmp_path / "a.safetensors")
    first, second = (swap(model, i, TARGET, METHOD) for i in (inversion, loaded))
    assert first.result.tobytes() == second.result.tobytes()


def test_settings_and_timings_are_ready_for_json(model, inversion):
    result = swap(model, inversion, TARGET, METHOD, **WORDS)
    settings = json.loads(json.dumps(result.settings))
    assert settings["method"]["A"] == METHOD.A and settings["target_prompt"] == TARGET
    assert settings["method"]["name"] == "photoswap" and settings["row_calls"] == 4 + 3 + 3 * 2
    assert [(i["quantity"], i["steps"]) for i in settings["injections"]] == [
        ("phi", [0, 0]),
        ("A", [0, 1]),
        ("M", [1, 1]),
    ]
    assert set(result.timings) == {"denoise", "decode", "place"} and min(result.timings.values()) >= 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": Photoswap()}, "has 5 steps, the swap 50"),
        ({"size": (192, 128)}, "of 128 x 128 px"),
        ({"target_word": "sks dog"}, f'"{TARGET}" lacks the subject\'s word "sks dog"'),
        ({"source_word": "dog"}, f'"{SOURCE}" lacks the subject\'s word "dog"'),
        ({"method": Photoswap.scaled(STEPS, blend=Blend())}, "name both"),
        ({"mask": Image.new("L", (64, 64), 255)}, "64 x 64 pixels, the source 128 x 128"),
        ({"mask": Image.new("L", (128, 128), 0)}, "mask is black"),
    ],
)
def test_a_caller_s_mistake_is_refused(model, inversion, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        swap(model, inversion, TARGET, **{"method": METHOD, **arguments})


def test_another_model_s_inversion_is_refused(device, inversion):
    with pytest.raises(ValueError, match="another model"):
        swap(swap_model(device, seed=1), inversion, TARGET, METHOD)


def test_half_precision_swaps_too(device):
    model = swap_model(device)
    for network in (model.unet, model.vae, model.text_encoder):
        network.to(torch.bfloat16)
    result = swap(model, invert_image(model, picture(), SOURCE, steps=2), TARGET, Photoswap.scaled(2))
    assert result.target_latents.dtype == torch.float32 and result.target_latents.isfinite().all()


def test_a_generated_picture_is_that_of_the_synthetic_source(model):
    drawn = generate(model, SOURCE, 5, steps=STEPS)
    assert drawn.tobytes() == reconstruct(model, synthesize(model, SOURCE, 5, steps=STEPS)).tobytes()
    assert drawn.tobytes() != generate(model, SOURCE, 6, steps=STEPS).tobytes()
    assert drawn.tobytes() != generate(model, SOURCE, 5, steps=STEPS, negative_prompt="a dog").tobytes()
    assert generate(model, SOURCE, 5, steps=1, size=(64, 192)).size == (64, 192)


def test_latents_are_handed_out_without_a_decoder(model):
    with patch.object(model.vae, "decode", None):
        drawn = generate_latents(model, SOURCE, 5, steps=STEPS)
    assert torch.equal(drawn, synthesize(model, SOURCE, 5, steps=STEPS).trajectory[:1])


def test_a_picture_may_be_named_by_its_file(model, inversion, tmp_path):
    picture().save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(invert_image(model, path, SOURCE, steps=STEPS).trajectory, inversion.trajectory)


def test_bars_are_shown_only_when_asked_for(model, inversion, capsys):
    swap(model, inversion, TARGET, METHOD)
    assert capsys.readouterr() == ("", "")
    swap(model, inversion, TARGET, METHOD, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "swap" in err
