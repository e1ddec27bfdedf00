"""The one rule for articles, and the places that word prompts by it."""

import pytest

from models.prompts import article
from photoswap.tokens import replace_word
from train.config import DreamBoothConfig

SPOKEN = [
    ("owl", "an"),
    ("Apple", "an"),
    ("umbrella", "an"),
    ("hour", "an"),
    ("heirloom vase", "an"),
    ("sks owl", "a"),
    ("unicorn", "a"),
    ("European robin", "a"),
    ("one-eyed cat", "a"),
    ("onesie", "an"),
    ("used car", "a"),
    ("house", "a"),
    ("cat", "a"),
]


@pytest.mark.parametrize(("words", "wanted"), SPOKEN)
def test_article(words, wanted):
    assert article(words) == wanted


@pytest.mark.parametrize(("words", "wanted"), SPOKEN)
def test_learning_and_swapping_word_prompts_alike(words, wanted):
    assert DreamBoothConfig(words).class_text == f"a photo of {wanted} {words}"
    assert DreamBoothConfig("cat", token=words).instance_text == f"a photo of {wanted} {words} cat"
    for before in ("a dog", "an otter"):
        swapped = replace_word(f"a photo of {before}", before.split()[1], words)
        assert swapped == f"a photo of {wanted} {words}"
