"""photoswap.paint_methods: each baseline against its rules written out, by hand and in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import paint as painted_at_random
from PIL import Image
from tiny_model import tiny_model, tiny_painter

from models.images import to_tensor
from photoswap.commands import paint_flags
from photoswap.paint_methods import (
    PAINT_METHODS,
    BlendedByImage,
    BlendedByText,
    PaintSettings,
    PasteAndDenoise,
    PasteAndHarmonise,
    Told,
)
from photoswap.paint_methods.blended import views
from photoswap.paint_methods.paste import colour_transfer
from photoswap.painters import paint
from photoswap.pasting import filled, membrane, paste_into

STEPS = 4
AGREES = 1e-9  # both in float64
ELSEWHERE = 1e-4  # a rule that counts moves the latents at least so far


def embed(pixels):
    """Where colours are, coarsely; as a network would, with gradients."""
    return F.adaptive_avg_pool2d(pixels, 4).flatten(1)


@pytest.fixture(scope="module")
def model():
    made = tiny_model()
    for network in made.networks.values():
        network.double()
    return made


@pytest.fixture(scope="module")
def picture():
    return painted_at_random((128, 128), 0)


@pytest.fixture(scope="module")
def mask():
    """Its edges cut cells of eight pixels."""
    made = Image.new("L", (128, 128), 0)
    made.paste(255, (30, 40, 90, 101))
    return made


@pytest.fixture(scope="module")
def reference():
    return painted_at_random((60, 90), 1)


@pytest.fixture(scope="module")
def subject():
    """Where the reference shows its subject."""
    made = Image.new("L", (60, 90), 0)
    made.paste(255, (10, 20, 50, 70))
    return made


def cells(factor=8):
    found = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    found[..., 40 // factor : 13, 30 // factor : 12] = True  # row 100 and column 89 are the last
    return found


def clean_of(model, picture):
    mean, _ = model.vae.encode(to_tensor(picture)[None].double()).chunk(2, dim=1)
    return 0.18215 * mean


@torch.no_grad()
def by_hand(model, picture, told, *, first, start, level, scale, seed=0, image_scale=0.0, where=None):
    """Blended denoising, a call for each half of guidance and every rule written out. The latents at the end."""
    generator, where = torch.Generator().manual_seed(seed), cells() if where is None else where
    clean, alphas = clean_of(model, picture), model.schedule.alpha_bar
    times = list(range(1, 1000, 1000 // STEPS))[:STEPS][::-1]

    def draw(like=clean):
        return torch.randn(like.shape, generator=generator).double()

    def eps(x, t):
        a, outputs = float(alphas[t]), []
        for prompt in [told.prompt or ""] if scale == 1 else [told.negative_prompt or "", told.prompt]:
            outputs.append(model.unet(x, t, model.encode_text(prompt)))
        output = outputs[0] if scale == 1 else outputs[0] + scale * (outputs[1] - outputs[0])
        return output if model.schedule.prediction == "eps" else a**0.5 * output + (1 - a) ** 0.5 * x

    def slope(x, t):
        a = float(alphas[t])
        with torch.enable_grad():
            z = x.clone().requires_grad_()
            seen = model.vae.decode((z - (1 - a) ** 0.5 * eps(z, t)) / a**0.5 / 0.18215)
            hole = torch.zeros(1, 1, 128, 128, dtype=torch.float64)
            hole[..., 40:101, 30:90] = 1
            found = embed(views(seen * hole, 2, generator))
            wanted = embed(to_tensor(told.reference)[None].double())
            apart = sum(1 - (one @ wanted[0]) / (one.norm() * wanted.norm()) for one in found) / len(found)
            return torch.autograd.grad(apart, z)[0]

    x = None
    for i, t in list(enumerate(times))[first:]:
        now, to = float(alphas[t]), float(alphas[times[i + 1]] if i + 1 < STEPS else alphas[0])
        x = start(draw, now, clean) if x is None else x
        e = eps(x, t)
        if image_scale:
            e = e + image_scale * (1 - now) ** 0.5 * slope(x, t)
        x = to**0.5 * (x - (1 - now) ** 0.5 * e) / now**0.5 + (1 - to) ** 0.5 * e
        at = now if level == "from" else to
        x = torch.where(where, x, at**0.5 * clean + (1 - at) ** 0.5 * draw())
    return x


def pure(draw, now, clean):
    return draw()


def apart(found, wanted):
    return float((found.latents.double() - wanted).abs().max())


WORDS = Told(prompt="a red cat", negative_prompt="rain")


def test_blended_by_text_is_its_algorithm(model, picture, mask):
    found = paint(model, picture, mask, WORDS, BlendedByText(steps=STEPS), seed=3)
    rules = {"first": 1, "start": pure, "level": "from", "scale": 7.5, "seed": 3}
    assert apart(found, by_hand(model, picture, WORDS, **rules)) < AGREES
    for broken in ({"first": 0}, {"level": "to"}, {"scale": 7.0}, {"where": torch.ones(1, 1, 16, 16).bool()}):
        assert apart(found, by_hand(model, picture, WORDS, **{**rules, **broken})) > ELSEWHERE, broken


def test_blended_by_image_follows_the_gradient(model, picture, mask, reference):
    told = Told(reference, "a red cat")
    method = BlendedByImage(steps=STEPS, augmentations=2, embed=embed, guidance_scale=2.0)
    found = paint(model, picture, mask, told, method, seed=3)
    rules = {"first": 1, "start": pure, "level": "from", "scale": 2.0, "seed": 3, "image_scale": 100.0}
    assert apart(found, by_hand(model, picture, told, **rules)) < AGREES
    assert apart(found, by_hand(model, picture, told, **{**rules, "image_scale": 90.0})) > ELSEWHERE


@pytest.mark.slow
def test_told_no_words_the_plain_estimate_is_steered(model, picture, mask, reference):
    """One row, of the empty prompt."""
    told = Told(reference)
    method = BlendedByImage(steps=STEPS, augmentations=2, embed=embed)
    found = paint(model, picture, mask, told, method)
    rules = {"first": 1, "start": pure, "level": "from", "scale": 1, "image_scale": 100.0}
    assert apart(found, by_hand(model, picture, told, **rules)) < AGREES


def test_the_gradient_brings_the_reference_nearer(model, picture, mask, reference):
    wanted = embed(to_tensor(reference)[None])[0]

    def near(scale):
        method = BlendedByImage(steps=STEPS, augmentations=1, embed=embed, image_scale=scale)
        seen = to_tensor(paint(model, picture, mask, reference, method).painted)[None]
        hole = torch.zeros(1, 1, 128, 128)
        hole[..., 40:101, 30:90] = 1
        return float(F.cosine_similarity(embed(seen * hole)[0], wanted, dim=0))

    assert near(300.0) > near(0.0) + 0.01


def test_paste_and_denoise_starts_from_what_was_pasted(model, picture, mask, reference, subject):
    told = Told(reference, "a red cat", subject, "rain")
    found = paint(model, picture, mask, told, PasteAndDenoise(steps=STEPS, t0=0.6), seed=5)
    pasted, _ = paste_into(filled(picture, mask), mask, reference, subject)

    def noised_paste(draw, now, clean, from_=pasted):
        return now**0.5 * clean_of(model, from_) + (1 - now) ** 0.5 * draw()

    rules = {"first": 2, "start": noised_paste, "level": "to", "scale": 7.5, "seed": 5}
    assert apart(found, by_hand(model, picture, told, **rules)) < AGREES
    others = ({"first": 1}, {"level": "from"}, {"start": lambda *a: noised_paste(*a, from_=picture)})
    for broken in others:
        assert apart(found, by_hand(model, picture, told, **{**rules, **broken})) > ELSEWHERE, broken


def membrane_by_matrix(values, hole):
    """The same surface from its equations, all at once."""
    h, w = hole.shape
    number = {place: i for i, place in enumerate(zip(*np.nonzero(hole), strict=True))}
    matrix, right = np.zeros((len(number), len(number))), np.zeros((len(number), values.shape[2]))
    for (y, x), i in number.items():
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < h and 0 <= u < w:
                matrix[i, i] += 1
                if (v, u) in number:
                    matrix[i, number[v, u]] -= 1
                else:
                    right[i] += values[v, u]
    found = values.copy()
    found[hole] = np.linalg.solve(matrix, right)
    return found


@pytest.mark.parametrize("box", [(5, 6, 30, 35), (0, 0, 20, 40), (33, 10, 41, 37)])
def test_a_hole_is_filled_by_the_surface_of_its_equations(box):
    values = np.array(painted_at_random((41, 37), 4), dtype=np.float64)
    hole = np.zeros((37, 41), bool)
    hole[box[1] : box[3], box[0] : box[2]] = True
    found = membrane(values, hole)
    assert np.array_equal(found[~hole], values[~hole])
    assert np.abs(found - membrane_by_matrix(values, hole)).max() < 0.02  # of 255: solved by steps


def test_a_plane_is_continued_and_extremes_are_kept():
    y, x = np.mgrid[:64, :64].astype(float)
    values = np.stack([3 * x, 2 * y, x + y], axis=-1)
    hole = np.zeros((64, 64), bool)
    hole[20:50, 10:40] = True
    assert np.abs(membrane(values, hole) - values).max() < 0.02
    everything = np.ones((64, 64), bool)
    assert np.allclose(membrane(values, everything), values.mean(axis=(0, 1)))
    assert np.array_equal(membrane(values, ~everything), values)


def test_what_is_pasted_stands_in_the_hole_as_large_as_fits(picture, mask, reference, subject):
    """The subject, 40 x 50, in a hole of 60 x 61: 1.22 times as large, 49 wide, on the lower edge."""
    pasted, where = paste_into(picture, mask, reference, subject)
    assert where.getbbox() == (35, 40, 84, 101)
    moved = np.any(np.array(pasted) != np.array(picture), axis=-1)
    assert not moved[np.array(where) == 0].any() and moved[np.array(where) > 0].mean() > 0.9
    complete, everywhere = paste_into(picture, mask, reference)
    assert everywhere.getbbox()[3] == 101 and everywhere.size == complete.size == (128, 128)


def test_colours_take_the_others_mean_and_deviation():
    """In l alpha beta, whose matrices are written out here as the paper prints them."""
    rng = np.random.default_rng(0)
    of, to = rng.uniform(60, 120, (500, 3)), rng.uniform(100, 220, (700, 3))

    def opponents(pixels):
        r, g, b = (pixels / 255).T
        l = np.log10(0.3811 * r + 0.5783 * g + 0.0402 * b)
        m = np.log10(0.1967 * r + 0.7244 * g + 0.0782 * b)
        s = np.log10(0.0241 * r + 0.1288 * g + 0.8444 * b)
        return np.stack([(l + m + s) / 3**0.5, (l + m - 2 * s) / 6**0.5, (l - m) / 2**0.5], axis=1)

    found = opponents(colour_transfer(of, of, to))
    assert found.mean(axis=0) == pytest.approx(opponents(to).mean(axis=0), abs=1e-9)
    assert found.std(axis=0) == pytest.approx(opponents(to).std(axis=0), rel=1e-9)
    assert np.abs(colour_transfer(of, of, of) - of).max() < 1e-9


@pytest.fixture(scope="module")
def scenes(picture, mask, reference, subject):
    told = Told(reference, reference_mask=subject)
    return {
        (by, share): np.array(
            paint(None, picture, mask, told, PasteAndHarmonise(by=by, share=share)).painted, dtype=np.float64
        )
        for by, share in (("none", 1.0), ("poisson", 1.0), ("poisson", 0.5), ("reinhard", 1.0), ("reinhard", 0.0))
    }


def test_poisson_keeps_gradients_and_meets_the_ground(picture, mask, reference, subject, scenes):
    ground = np.array(filled(picture, mask), dtype=np.float64)
    pasted, where = paste_into(filled(picture, mask), mask, reference, subject)
    inside = np.array(where) > 127
    wanted = np.array(pasted, dtype=np.float64) + membrane_by_matrix(ground - np.array(pasted), inside)
    alpha = np.array(where)[..., None] / 255
    wanted = (np.array(pasted) + alpha * (wanted - np.array(pasted))).clip(0, 255)
    assert np.abs(scenes["poisson", 1.0] - wanted).max() <= 0.6  # rounding
    half = (scenes["none", 1.0] + scenes["poisson", 1.0]) / 2
    unclipped = (scenes["poisson", 1.0] > 0) & (scenes["poisson", 1.0] < 255)
    assert np.abs(scenes["poisson", 0.5] - half)[unclipped].max() <= 1.1


def test_reinhard_moves_the_subject_alone(picture, mask, reference, subject, scenes):
    _, where = paste_into(picture, mask, reference, subject)
    moved = np.any(scenes["reinhard", 1.0] != scenes["none", 1.0], axis=-1)
    assert not moved[np.array(where) == 0].any() and moved[np.array(where) > 127].mean() > 0.9
    assert np.array_equal(scenes["reinhard", 0.0], scenes["none", 1.0])


RUNS = {
    "blended-text": ({"steps": 2}, Told(prompt="a cat")),
    "blended-image": ({"steps": 2, "embed": embed, "augmentations": 2}, None),
    "paste-harmonise": ({}, None),
    "paste-denoise": ({"steps": 2}, None),
}


WIDE = [pytest.param(name, (200, 120), marks=pytest.mark.slow) for name in RUNS]


@pytest.mark.parametrize(("name", "size"), [*((name, (128, 128)) for name in RUNS), *WIDE])
def test_outside_the_mask_is_the_source_and_the_seed_says_the_rest(name, size, model, reference):
    settings, told = RUNS[name]
    picture, mask = painted_at_random(size, 2), Image.new("L", size, 0)
    mask.paste(255, (20, 30, 90, 100))
    method, kind = PAINT_METHODS[name](**settings), PAINT_METHODS[name]
    one, same, other = (
        paint(model if kind.usual_model else None, picture, mask, told or reference, method, seed=seed).result
        for seed in (1, 1, 2)
    )
    moved = np.any(np.array(one) != np.array(picture), axis=-1)
    assert one.size == size and not moved[np.array(mask) == 0].any() and moved[np.array(mask) > 0].mean() > 0.5
    assert one.tobytes() == same.tobytes()
    assert (one.tobytes() == other.tobytes()) == (kind.usual_model is None)


@pytest.mark.parametrize(
    ("method", "told", "sentence"),
    [
        (BlendedByText(), "reference", "told by a prompt"),
        (BlendedByImage(embed=embed), Told(prompt="a cat"), "told by a reference"),
        (BlendedByImage(), "reference", "what embeds them"),
        (PasteAndHarmonise(), WORDS, "told by a reference"),
        (PasteAndDenoise(), Told(prompt="a cat"), "told by a reference"),
        (PaintSettings(), "reference", "draws whole pictures"),
    ],
)
def test_what_a_method_cannot_be_told_is_refused(method, told, sentence, model, picture, mask, reference):
    with pytest.raises(ValueError, match=sentence):
        paint(model, picture, mask, reference if told == "reference" else told, method)


def test_a_model_with_nine_channels_is_refused(picture, mask):
    with pytest.raises(ValueError, match="by itself; this method wants one that draws whole pictures"):
        paint(tiny_painter(), picture, mask, "a cat", BlendedByText())
    with pytest.raises(ValueError, match="there is no model"):
        paint(None, picture, mask, "a cat", BlendedByText())


def test_what_is_told_in_vain_is_refused(picture, mask, reference):
    with pytest.raises(ValueError, match="no use for a prompt"):
        paint(None, picture, mask, Told(reference, "a cat"), PasteAndHarmonise())
    with pytest.raises(ValueError, match="of another size"):
        Told(reference, reference_mask=mask)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (BlendedByText, {"blending_start_percentage": 1.0}),
        (BlendedByImage, {"augmentations": 0}),
        (PasteAndHarmonise, {"by": "magic"}),
        (PasteAndHarmonise, {"share": 1.5}),
        (PasteAndDenoise, {"t0": 0.0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, wrong):
    with pytest.raises(ValueError, match=r"want|0\.\.1"):
        kind(**wrong)


def test_the_command_knows_the_methods_beforehand():
    as_flags = {"negative_prompt": "negative"}
    for name, kind in PAINT_METHODS.items():
        assert paint_flags.WANTED[name] == tuple(as_flags.get(one, one) for one in kind.wants)
        assert set(paint_flags.HEEDED[name]) == {as_flags.get(one, one) for one in kind.heeds}
    assert paint_flags.WANTED.keys() == paint_flags.HEEDED.keys() == PAINT_METHODS.keys()
    assert tuple(n for n, kind in PAINT_METHODS.items() if kind.usual_model is None) == paint_flags.WITHOUT_NETWORKS
