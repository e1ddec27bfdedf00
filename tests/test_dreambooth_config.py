"""train.config: the published numbers, and none that make no sense."""

from dataclasses import replace

import pytest

from train.config import DreamBoothConfig, dreambooth_config
from train.presets import DREAMBOOTH

NAN = float("nan")


def test_presets_are_the_published_numbers():
    paper = dreambooth_config("sd21", "man")
    assert (paper.learning_rate, paper.steps, paper.betas, paper.weight_decay) == (1e-6, 800, (0.9, 0.999), 1e-2)
    assert paper.epsilon == 1e-8 and paper.clip == 1.0 and paper.prior_weight == 1.0 and paper.train_text_encoder
    assert not paper.mirror and paper.instance_text == "a photo of a sks man" and paper.class_text == "a photo of a man"
    assert (
        dreambooth_config("miniature", "owl", steps=5).steps == 5
        and dreambooth_config("miniature", "owl").class_text == "a photo of an owl"
    )
    assert all(dreambooth_config(name, "cat") for name in DREAMBOOTH)
    script = dreambooth_config("script", "cat")
    assert (script.learning_rate, script.class_pictures) == (5e-6, 100)
    assert script.random_crop and script.resampling == "bilinear" and script.betas == paper.betas
    with pytest.raises(ValueError, match="no preset for 'sdxl'"):
        dreambooth_config("sdxl", "cat")


def test_a_presets_steps_for_the_token_are_a_share_of_all():
    whole = dreambooth_config("miniature", "cat")
    assert 0 < whole.token_steps < whole.steps
    assert dreambooth_config("miniature", "cat", steps=2 * whole.steps).token_steps == 2 * whole.token_steps
    assert dreambooth_config("miniature", "cat", steps=2).token_steps == 0
    assert dreambooth_config("miniature", "cat", steps=20, token_steps=20).token_steps == 20
    assert dreambooth_config("miniature", "cat", train_text_encoder=False).token_steps == 0
    with pytest.raises(ValueError, match=r"steps is 2\.5"):
        dreambooth_config("miniature", "cat", steps=2.5)
    with pytest.raises(ValueError, match="steps is a number of more than 30 digits"):
        dreambooth_config("miniature", "cat", steps=10**400)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"class_word": " "}, "class_word is empty"),
        ({"token": ""}, "token is empty"),
        ({"instance_prompt": "a photo of a cat"}, "lacks the token 'sks'"),
        ({"steps": 0}, "steps is 0"),
        ({"prior_weight": -1.0}, "prior_weight is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"betas": (0.9, 1.0)}, "betas are"),
        ({"betas": (0.9,)}, "betas are"),
        ({"betas": (0.9, NAN)}, "betas are"),
        ({"concept_dtype": "bfloat16"}, "concept_dtype is 'bfloat16'; want one of float32, float16"),
        ({"resampling": "nearest"}, "resampling is 'nearest'"),
        ({"learning_rate": NAN}, "learning_rate is nan; want a number above 0 to 1"),
        ({"text_learning_rate": float("inf")}, "text_learning_rate is inf"),
        ({"clip": float("inf")}, "clip is inf"),
        ({"prior_weight": NAN}, "prior_weight is nan"),
        ({"class_guidance": NAN}, "class_guidance is nan"),
        ({"batch": 1_000_000}, "batch is 1000000; want a whole number from 1 to 1,024"),
        ({"class_pictures": 1_000_000_000}, "class_pictures is 1000000000"),
        ({"steps": 10**400}, "steps is a number of more than 30 digits"),
        ({"steps": 2.5}, "steps is 2.5; want a whole number"),
        ({"batch": True}, "batch is True"),
        ({"batch": None}, "batch is None"),
        ({"seed": 2**63}, "seed is 9223372036854775808; want a whole number from 0 to 2"),
        ({"seed": -1}, "seed is -1"),
        ({"size": 0}, "size is 0"),
        ({"min_snr": 0.0}, "min_snr is 0.0; want a number above 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(DreamBoothConfig("cat"), **changes)


def test_the_article_follows_the_next_word_spoken():
    assert DreamBoothConfig("owl").instance_text == "a photo of a sks owl"  # as published, whatever it sounds like
    assert DreamBoothConfig("owl", token="ohwx").instance_text == "a photo of an ohwx owl"
    assert DreamBoothConfig("owl").class_text == "a photo of an owl"
