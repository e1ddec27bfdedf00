"""The configurations: what they refuse, and that the published ones are what they should be."""

import pytest

from models import MINIATURE, MODELS, SD15, SD21, SD21_BASE, ModelConfig, TextConfig, UNetConfig, VAEConfig


def test_the_published_models():
    painting = {"sd2-inpainting", "sd15-inpainting", "paint-by-example"}
    assert set(MODELS) == {"miniature", "sd21", "sd21-base", "sd15"} | painting
    assert {name for name, config in MODELS.items() if config.paints} == painting
    assert all(config.name == name for name, config in MODELS.items())
    assert (SD21.noise.prediction, SD21.native_size) == ("v", 768)
    assert (SD21_BASE.noise.prediction, SD21_BASE.native_size) == ("eps", 512)
    assert [SD21.unet.heads_at(width) for width in SD21.unet.widths] == [5, 10, 20, 20]
    assert [SD15.unet.heads_at(width) for width in SD15.unet.widths] == [8, 8, 8, 8]
    assert (SD21.text.layers, SD21.text.padding, SD15.text.layers, SD15.text.padding) == (23, "zero", 12, "eot")
    assert {config.vae.factor for config in MODELS.values()} == {8}


def test_the_miniature_has_the_structure_of_sd21():
    for name in ("multipliers", "res_blocks", "attention_levels", "depth", "in_channels", "linear_projection"):
        assert getattr(MINIATURE.unet, name) == getattr(SD21.unet, name)
    assert MINIATURE.text.vocabulary == SD21.text.vocabulary


@pytest.mark.parametrize(
    ("kind", "numbers", "message"),
    [
        (UNetConfig, {"multipliers": (1, 2)}, "one multiplier for each"),
        (UNetConfig, {"attention_levels": (0, 4)}, "levels are 0..3"),
        (UNetConfig, {"heads": 8}, "exactly one"),
        (UNetConfig, {"head_channels": None}, "exactly one"),
        (UNetConfig, {"groups": 33}, "groups=33"),
        (UNetConfig, {"head_channels": 96}, "into heads by 96"),
        (VAEConfig, {"groups": 33}, "groups=33"),
        (VAEConfig, {"scale_factor": 0.0}, "must be positive"),
        (TextConfig, {"heads": 7}, "into 7 heads"),
        (TextConfig, {"layers": 25}, "stored_layers=24"),
        (TextConfig, {"activation": "relu"}, "'relu'"),
        (TextConfig, {"padding": "left"}, "'left'"),
        (ModelConfig, {"text": TextConfig(width=512)}, "gives 512"),
        (ModelConfig, {"vae": VAEConfig(latent_channels=8)}, "latents have 8"),
        (ModelConfig, {"unet": UNetConfig(in_channels=8)}, "takes 8 channels; want 4, the latents, or 9, with a mask"),
        (ModelConfig, {"granularity": 32}, "multiple of 64"),
        (ModelConfig, {"native_size": 700}, "no multiple of granularity 64"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(kind, numbers, message):
    with pytest.raises(ValueError, match=message):
        kind(**numbers)
