"""The sheet of samples: pictures follow the seed, and captions are whole."""

import pytest
from tiny_model import tiny_model

from train.miniature.samples import sample_prompts, wrapped


def test_samples_follow_the_seed():
    first, again, other = (sample_prompts(tiny_model(), ["a cat"], seed, 2, 3.0)[0] for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()


@pytest.mark.parametrize("text", ["a photo of a cat", "a photo of a striped red and white cat with a blue scarf"])
def test_wrapping_loses_no_word(text):
    assert "a photo of " + wrapped(text).replace("\n", " ") == text
    assert max(map(len, wrapped(text).split("\n"))) <= 21
