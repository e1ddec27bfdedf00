"""photoswap.painters: what a reference or a prompt says, inside a mask, laid back into the picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import paint as painted_at_random
from golden_paint import golden_painter
from PIL import Image
from tiny_model import tiny_model, tiny_painter

from models.images import to_image, to_tensor
from models.paint_by_example import reference_tensor
from photoswap.painters import PaintSettings, crop_for, paint, where_to_work
from photoswap.sizes import cut

QUICK = PaintSettings(steps=3)
BY_PROMPT = PaintSettings(steps=3, sampler="ddim", eta=1.0, guidance_scale=7.5)


@pytest.fixture(scope="module")
def painter(device):
    return golden_painter(device)


@pytest.fixture(scope="module")
def inpainter(device):
    return tiny_painter(device)


@pytest.fixture
def picture():
    return painted_at_random((128, 128), 0)


@pytest.fixture
def reference():
    return painted_at_random((60, 90), 1)


def hole(size=(128, 128), box=(32, 40, 96, 104)):
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def changed(before, after):
    return np.any(np.array(before.convert("RGB")) != np.array(after), axis=-1)


def by_hand(model, picture, mask, contexts, channels, step, seed=0, steps=3, scale=5.0):
    """The same painting, a call for each half of guidance and the rules written out."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.from_numpy((np.array(mask) < 128).astype(np.float32))[None, None]
    image = to_tensor(picture)[None]
    mean, log_variance = model.vae.encode((image * keep).to(model.device)).chunk(2, dim=1)
    draw = torch.randn(mean.shape, generator=generator).to(mean)
    rest = 0.18215 * (mean + torch.exp(log_variance.clamp(-30, 20) / 2) * draw)
    x = torch.randn((1, 4, 16, 16), generator=generator).to(model.device)
    alpha = model.schedule.alpha_bar
    times = list(range(1, 1000, 1000 // steps))[:steps][::-1]

    def eps(x, t):
        halves = [model.unet(torch.cat([x, channels(rest, keep)], dim=1), t, context) for context in contexts]
        output, a = halves[0] + scale * (halves[1] - halves[0]), float(alpha[t])
        return output if model.schedule.prediction == "eps" else a**0.5 * output + (1 - a) ** 0.5 * x

    kept = []
    for i, t in enumerate(times):
        levels = float(alpha[t]), float(alpha[times[i + 1]] if i + 1 < steps else alpha[0])
        x = step(x, eps, t, times[min(i + 1, steps - 1)], levels, kept, generator)
    return model.decode(x)


def plms_step(x, eps, t, following, levels, kept, generator):
    now, to = levels

    def go(e):
        return to**0.5 * (x - (1 - now) ** 0.5 * e) / now**0.5 + (1 - to) ** 0.5 * e

    e = eps(x, t)
    if not kept:
        mixed = (e + eps(go(e), following)) / 2
    elif len(kept) == 1:
        mixed = (3 * e - kept[-1]) / 2
    else:
        mixed = (23 * e - 16 * kept[-1] + 5 * kept[-2]) / 12
    kept.append(e)
    return go(mixed)


def ddpm_step(x, eps, t, following, levels, kept, generator):
    now, to = levels
    e = eps(x, t)
    sigma = ((1 - to) / (1 - now) * (1 - now / to)) ** 0.5
    x0 = (x - (1 - now) ** 0.5 * e) / now**0.5
    noise = torch.randn(x.shape, generator=generator).to(x)
    return to**0.5 * x0 + (1 - to - sigma**2) ** 0.5 * e + sigma * noise


@torch.no_grad()
def test_a_reference_is_painted_as_the_rules_say(painter, picture, reference):
    """Largest difference of a pixel in [-1, 1]: 8.3e-6."""
    mask = hole()
    contexts = painter.unconditional(), painter.encode_reference(reference_tensor(reference))

    def channels(rest, keep):  # the mask between the four nearest pixels of each centre; here all of them agree
        return torch.cat([rest, keep[..., 3::8, 3::8].to(rest)], dim=1)

    wanted = by_hand(painter, picture, mask, contexts, channels, plms_step)
    found = paint(painter, picture, mask, reference, QUICK)
    assert (painter.decode(found.latents) - wanted).abs().max() < 1e-4
    assert np.abs(np.int16(found.painted) - np.int16(to_image(wanted[0]))).max() <= 1


@torch.no_grad()
def test_a_prompt_is_painted_as_the_rules_say(inpainter, picture):
    """Largest difference: 2.3e-5, in a random model of four levels."""
    contexts = inpainter.encode_text("rain"), inpainter.encode_text("a red cat")

    def channels(rest, keep):
        return torch.cat([1 - keep[..., ::8, ::8].to(rest), rest], dim=1)

    wanted = by_hand(inpainter, picture, hole(), contexts, channels, ddpm_step, seed=4, scale=7.5)
    found = paint(inpainter, picture, hole(), "a red cat", BY_PROMPT, negative_prompt="rain", seed=4)
    assert (inpainter.decode(found.latents) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("size", [(128, 128), (200, 120), (301, 517)])
@pytest.mark.parametrize("crop", [None, True, False])
def test_outside_the_mask_every_pixel_is_the_source_s(size, crop, painter, reference):
    picture = painted_at_random(size, 2)
    mask = hole(size, (size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2))
    result = paint(painter, picture, mask, reference, replace(QUICK, crop=crop, steps=1)).result
    moved = changed(picture, result)
    assert result.size == size and not moved[np.array(mask) == 0].any()
    assert moved[np.array(mask) > 0].mean() > 0.5


def test_without_keeping_the_model_s_picture_is_laid_over_all(painter, picture, reference):
    settings = replace(QUICK, keep=False, crop=False, steps=1)
    found = paint(painter, picture, hole(), reference, settings)
    assert found.result.tobytes() == found.painted.tobytes()
    small = paint(painter, picture, hole(box=(40, 40, 60, 60)), reference, replace(settings, crop=True))
    moved, (left, top, right, bottom) = changed(picture, small.result), small.box
    assert moved[top + 4 : bottom - 4, left + 4 : right - 4].mean() > 0.9
    moved[top:bottom, left:right] = False
    assert not moved.any()


def test_the_model_never_sees_what_is_under_the_mask(painter, picture, reference):
    other = picture.copy()
    other.paste("red", (32, 40, 96, 104))
    one, two = (paint(painter, each, hole(), reference, QUICK) for each in (picture, other))
    assert torch.equal(one.latents, two.latents)
    assert np.all(np.array(one.seen)[40:104, 32:96] == 128) and one.seen.getpixel((0, 0)) == picture.getpixel((0, 0))


@pytest.mark.parametrize(
    ("box", "crops"),
    [((40, 40, 58, 58), True), ((40, 40, 59, 59), False), ((0, 0, 128, 128), False), ((0, 0, 10, 10), True)],
)
def test_a_mask_below_two_hundredths_is_worked_on_enlarged(box, crops, painter, picture):
    found, size = where_to_work(painter, picture, hole(box=box), PaintSettings())
    assert (found != (0, 0, 128, 128)) == crops and size == (128, 128)


def test_a_mask_beyond_the_middle_square_is_worked_on_in_a_crop_of_its_own(painter):
    """The size worked on is cut from the middle; a wide picture's edge would never be seen."""
    picture, settings = painted_at_random((300, 128), 0), PaintSettings(size=(128, 128))
    mask = hole(picture.size, (0, 20, 60, 100))
    box, _ = where_to_work(painter, picture, mask, settings)
    assert box[0] == 0 and box[2] - box[0] < 200
    assert where_to_work(painter, picture, mask, replace(settings, crop=False))[0] == (0, 0, 300, 128)
    visible = cut(picture.size, (128, 128))
    with pytest.raises(ValueError, match="where the model looks"):
        paint(painter, picture, hole(picture.size, (0, 0, visible[0], 128)), picture, replace(settings, crop=False))


@pytest.mark.parametrize("size", [(500, 400), (90, 300), (64, 64)])
@pytest.mark.parametrize("seed", range(20))
def test_a_crop_holds_its_box_and_stays_in_the_picture(size, seed):
    x, y = (np.sort(np.random.default_rng([seed, s]).choice(s + 1, 2, replace=False)) for s in size)
    around = (int(x[0]), int(y[0]), int(x[1]), int(y[1]))
    left, top, right, bottom = box = crop_for(around, size)
    assert 0 <= left <= around[0] and around[2] <= right <= size[0]
    assert 0 <= top <= around[1] and around[3] <= bottom <= size[1]
    w, h = right - left, bottom - top
    assert w >= min(16, size[0]) and h >= min(16, size[1])
    area = (around[2] - around[0]) * (around[3] - around[1])
    if w == h < min(size) and w > max(around[2] - around[0], around[3] - around[1]) * 1.25 and w > 16:
        assert area / (w * h) == pytest.approx(0.25, rel=0.2), box


def test_the_seed_says_it_all(painter, picture, reference):
    one, same, other = (paint(painter, picture, hole(), reference, QUICK, seed=seed).latents for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_reference_of_any_mode_is_taken(painter, picture, reference):
    found = paint(painter, picture, hole(), reference.convert("RGBA"), QUICK)
    assert torch.equal(found.latents, paint(painter, picture, hole(), reference, QUICK).latents)


def test_models_that_do_not_paint_are_refused(picture):
    with pytest.raises(ValueError, match="draws whole pictures"):
        paint(tiny_model(), picture, hole(), "a cat")


def test_what_is_told_has_to_suit_the_model(painter, inpainter, picture, reference):
    with pytest.raises(ValueError, match="told by a picture"):
        paint(painter, picture, hole(), "a cat")
    with pytest.raises(ValueError, match="told by a prompt"):
        paint(inpainter, picture, hole(), reference)
    with pytest.raises(ValueError, match="knows no words"):
        paint(painter, picture, hole(), reference, negative_prompt="rain")


def test_masks_that_say_nothing_are_refused(painter, picture, reference):
    with pytest.raises(ValueError, match="black everywhere"):
        paint(painter, picture, Image.new("L", picture.size), reference)
    with pytest.raises(ValueError, match="128 x 120 pixels"):
        paint(painter, picture, hole((128, 120)), reference)


@pytest.mark.parametrize("wrong", [{"sampler": "euler"}, {"eta": 0.5}, {"sampler": "ddim", "eta": 2.0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="want"):
        PaintSettings(**wrong)
