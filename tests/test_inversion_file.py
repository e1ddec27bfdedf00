"""photoswap.inversions.file: what belongs together, what fits a swap, and what its file may say."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spoiled import contents, put, spoiled_bytes, spoiled_tensors, spoiled_texts
from swap_model import SOURCE, picture, swap_model
from test_records import LONGEST, sentence

from photoswap.inversion import invert_image, synthesize
from photoswap.inversions.file import Inversion, normal_guidance
from photoswap.methods import Photoswap
from photoswap.pipeline import swap

STEPS = 3
SEED = 21


@pytest.fixture(scope="module")
def model(device):
    return swap_model(device)


@pytest.fixture(scope="module")
def fitted(model):
    return invert_image(model, picture(), SOURCE, "null-text", STEPS, size=(64, 64))


def made(**changes):
    """An inversion of nothing in particular."""
    parts = {
        "trajectory": torch.linspace(-1, 1, 3 * 4 * 8 * 8).reshape(3, 4, 8, 8),
        "prompt": SOURCE,
        "method": "null-text",
        "guidance_scale": (7.5, 3.0),
        "model": "0123456789abcdef",
        "source": picture(20, 16),
        "null_contexts": torch.ones(2, 77, 16),
        "seed": 3,
    }
    return Inversion(**{**parts, **changes})


def same(a, b):
    names = ("prompt", "method", "guidance_scale", "model", "seed")
    assert [getattr(a, name) for name in names] == [getattr(b, name) for name in names]
    assert torch.equal(a.trajectory, b.trajectory) and a.trajectory.dtype == b.trajectory.dtype
    assert (a.null_contexts is None) == (b.null_contexts is None) and (a.source is None) == (b.source is None)
    assert a.null_contexts is None or torch.equal(a.null_contexts, b.null_contexts)
    assert a.source is None or a.source.tobytes() == b.source.tobytes()
    return True


def test_a_file_gives_back_every_part(tmp_path):
    for i, changes in enumerate(({}, {"method": "ddim", "null_contexts": None, "source": None, "seed": None})):
        made(**changes).save(tmp_path / str(i))
        assert same(Inversion.load(tmp_path / str(i)), made(**changes))


def test_a_file_of_the_first_version_is_still_read(tmp_path):
    held, data = contents_of(made(), tmp_path)
    for name in ("kind", "version"):
        data.pop(name)
    save_file(held, tmp_path / "old", {"photoswap inversion 1": json.dumps(data)})
    assert same(Inversion.load(tmp_path / "old"), made())
    data["guidance_scale"] = 7  # as Python wrote a whole number
    save_file(held, tmp_path / "old", {"photoswap inversion 1": json.dumps(data)})
    assert same(Inversion.load(tmp_path / "old"), made(guidance_scale=7.0))
    save_file(held, tmp_path / "old", {"photoswap inversion 1": "{}"})
    assert "damaged" in sentence(lambda: Inversion.load(tmp_path / "old"))


def contents_of(inversion, folder):
    inversion.save(folder / "whole")
    return contents(folder / "whole")


# Values that are allowed in a file; everything else that is tried must be refused.
ALLOWED = {
    "prompt": {"text", "empty", "lines"},
    "guidance_scale": {"zero", "negative", "fraction"},
    "model": {"text", "lines"},
    "seed": {"null", "zero", "negative", "huge"},
    "no": {"seed"},
}
AXES = {"trajectory": (1, 2, 3), "null_contexts": (1, 2), "source": (0, 1)}
LARGER = {f"{name} longer in {axis}" for name, axes in AXES.items() for axis in axes}


def test_no_spoilt_file_is_read(tmp_path):
    held, data = contents_of(made(), tmp_path)
    tried = 0
    for what, text in spoiled_texts(data):
        name, _, value = what.partition(" ")
        put(tmp_path / "spoilt", held, text)
        if value in ALLOWED.get(name, ()):
            Inversion.load(tmp_path / "spoilt")
        elif what != "no version":  # it is then of the first
            assert "spoilt" in sentence(lambda: Inversion.load(tmp_path / "spoilt")), what
            tried += 1
    for what, changed in spoiled_tensors(held):
        put(tmp_path / "spoilt", changed, json.dumps(data))
        if what in LARGER or what == "no source":
            Inversion.load(tmp_path / "spoilt")  # whether a model has such latents, check says
        else:
            assert "spoilt" in sentence(lambda: Inversion.load(tmp_path / "spoilt")), what
            tried += 1
    assert tried > 150


def test_no_damaged_bytes_end_in_anything_but_a_sentence(tmp_path):
    made().save(tmp_path / "whole")
    print(f"seed {SEED}")
    refused = 0
    for what, spoilt in spoiled_bytes((tmp_path / "whole").read_bytes(), torch.Generator().manual_seed(SEED)):
        (tmp_path / "spoilt").write_bytes(spoilt)
        try:
            Inversion.load(tmp_path / "spoilt")
        except ValueError as error:
            refused += 1
            assert len(str(error)) <= LONGEST and str(error).isprintable(), what
    assert refused > 250


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"trajectory": torch.zeros(3, 4, 8)}, r"want \(steps\+1 c h w\)"),
        ({"trajectory": torch.zeros(1, 4, 8, 8)}, "between 2 and 1001"),
        ({"trajectory": torch.full((3, 4, 8, 8), float("nan"))}, "holds NaN or infinity"),
        ({"trajectory": torch.full((3, 4, 8, 8), 1e5)}, "runs from 100000 to 100000"),
        ({"trajectory": torch.zeros(3, 4, 8, 8, dtype=torch.float16)}, "is float16; want float32"),
        ({"null_contexts": torch.full((2, 77, 16), float("inf"))}, "holds NaN or infinity"),
        ({"null_contexts": torch.zeros(3, 77, 16)}, "3 null contexts for 2 steps"),
        ({"null_contexts": None}, "belong to the method null-text"),
        ({"method": "direct"}, "belong to the method null-text"),
        ({"method": "magic"}, "method is 'magic'; want one of direct, null-text, negative-prompt, ddim"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": (7.5, float("inf"))}, "guidance_scale is inf"),
        ({"guidance_scale": (7.5, 3.0, 1.0)}, "3 values for 2 steps"),
        ({"guidance_scale": "7.5"}, "guidance_scale is '7.5'; want a number or several values"),
        ({"seed": 2**64}, "seed is 18446744073709551616; want a number between"),
        ({"seed": True}, "seed is True; want a whole number"),
        ({"prompt": "x" * 20_000}, "prompt has 20000 characters"),
        ({"source": Image.new("L", (9, 9))}, "mode L; want RGB"),
    ],
)
def test_parts_that_make_no_inversion_are_refused(changes, what):
    with pytest.raises(ValueError, match=what):
        made(**changes)


@pytest.mark.parametrize("scale", [7.5, [7.5, 7.5], (7.5, 7.5)])
def test_equal_guidance_is_one_number_however_it_is_written(scale, tmp_path):
    inversion = made(guidance_scale=scale)
    assert inversion.guidance_scale == 7.5 and isinstance(inversion.guidance_scale, float)
    inversion.save(tmp_path / "a")
    assert Inversion.load(tmp_path / "a").guidance_scale == 7.5
    assert normal_guidance([1, 2], 2) == (1.0, 2.0) == made(guidance_scale=[1, 2]).guidance_scale
    for wrong in ([1, 2, 3], float("nan"), (1.0, float("inf")), 1e9):
        assert "guidance_scale" in sentence(lambda wrong=wrong: normal_guidance(wrong, 2))


def test_another_model_size_or_number_of_steps_is_refused(model, device):
    inversion = invert_image(model, picture(), SOURCE, steps=STEPS)
    inversion.check(model, STEPS, (128, 128), 3.0)
    with pytest.raises(ValueError, match="has 3 steps, the swap 50"):
        inversion.check(model, 50)
    with pytest.raises(ValueError, match="of 128 x 128 px, the swap of 192 x 128"):
        inversion.check(model, STEPS, (192, 128))
    noise = replace(model.config.noise, prediction="eps")
    for other in (swap_model(device, seed=1), replace(model, config=replace(model.config, noise=noise))):
        with pytest.raises(ValueError, match="made with another model"):
            inversion.check(other, STEPS)


@pytest.mark.parametrize("shape", [(4, 8, 8, 8), (4, 4, 7, 8)])
def test_latents_that_the_model_does_not_have_are_refused(model, shape):
    inversion = made(method="direct", null_contexts=None, guidance_scale=1.0, trajectory=torch.zeros(shape))
    with pytest.raises(ValueError, match="does not have"):
        inversion.check(model, STEPS)


def test_null_contexts_of_another_text_encoder_are_refused(model):
    nulls = torch.zeros(2, 77, 5)
    with pytest.raises(ValueError, match=r"null contexts are \(77, 5\)"):
        made(null_contexts=nulls).check(model, 2)


def test_null_contexts_serve_only_their_guidance(model, fitted):
    for scale in (7.5, [7.5] * STEPS, (7.5,) * STEPS, None):
        fitted.check(model, STEPS, guidance_scale=scale)
    for scale in (3.0, (7.5, 7.5, 3.0)):
        with pytest.raises(ValueError, match=r"fitted for guidance 7\.5, the swap wants"):
            fitted.check(model, STEPS, guidance_scale=scale)


@pytest.mark.parametrize(
    ("method", "any_prompt"), [("direct", True), ("seed", True), ("ddim", False), ("null-text", False)]
)
def test_an_inversion_that_depends_on_its_prompt_serves_no_other(model, fitted, method, any_prompt):
    """ddim and null-text under another source prompt once came back as another picture, without a word."""
    if method == "seed":
        inversion = synthesize(model, SOURCE, 1, STEPS, size=(64, 64))
    else:
        inversion = (
            fitted if method == "null-text" else invert_image(model, picture(), SOURCE, method, STEPS, size=(64, 64))
        )
    other = SOURCE.replace("photo", "drawing")
    assert other != SOURCE
    paper = Photoswap(steps=STEPS, phi=1, M=1, A=1)
    inversion.check(model, STEPS, prompt=SOURCE)
    if any_prompt:
        inversion.check(model, STEPS, prompt=other)
        swapped = swap(model, inversion, other, paper, source_prompt=other)
        assert torch.equal(swapped.source_latents, inversion.source_at(STEPS - 1))
        return
    with pytest.raises(ValueError, match=f"by {method} was made with the prompt"):
        inversion.check(model, STEPS, prompt=other)
    with pytest.raises(ValueError, match="was made with the prompt"):
        swap(model, inversion, other, paper, source_prompt=other)
