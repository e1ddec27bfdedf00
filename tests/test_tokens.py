"""Aligning prompts and finding words in them."""

import itertools
import random

import pytest
import torch

from models.tokenizer import Tokenizer
from photoswap.tokens import align, align_prompts, replace_word, subject_tokens

TOKENIZER = Tokenizer()


def pairs(alignment, n):
    """The source's column of each of the first n target columns, None where the target keeps its own."""
    taken, own = alignment.taken, alignment.own
    assert torch.equal(taken.sum(dim=0) + own, torch.ones(len(own)))  # every column is one or the other, and entire
    return [None if own[j] else taken[:, j].argmax().item() for j in range(n)]


def test_an_inserted_token_keeps_its_own_column():
    aligned = align_prompts(TOKENIZER, "A photo of a man", "A photo of a sks man")
    assert pairs(aligned, 8) == [0, 1, 2, 3, 4, None, 5, 6]


def test_a_replaced_token_keeps_its_own_column():
    assert pairs(align_prompts(TOKENIZER, "a photo of a cat", "a photo of a sks"), 7) == [0, 1, 2, 3, 4, None, 6]
    longer = align_prompts(TOKENIZER, "a photo of a cat", "a photo of a sks dog")
    assert pairs(longer, 8) == [0, 1, 2, 3, 4, None, None, 6]


def test_a_shorter_target_takes_the_columns_that_remain():
    assert pairs(align_prompts(TOKENIZER, "a photo of a big red cat", "a photo of a cat"), 7) == [0, 1, 2, 3, 4, 7, 8]


def test_equal_prompts_align_by_index_and_so_does_padding():
    assert pairs(align_prompts(TOKENIZER, "a cat", "a cat"), 77) == list(range(77))
    assert pairs(align([1, 5, 2], [1, 5, 6, 2]), 77)[4:] == list(range(4, 77))


def test_of_repeated_tokens_the_earliest_is_the_shared_one():
    assert pairs(align([1, 7, 2], [1, 7, 7, 2]), 4) == [0, 1, None, 2]


def score(pairing, source, target):
    """Needleman-Wunsch's score with gap 0, match 1, mismatch -1 of an increasing pairing {target: source}."""
    return sum(1 if source[i] == target[j] else -1 for j, i in pairing.items())


def all_pairings(n, m):
    for size in range(min(n, m) + 1):
        for js in itertools.combinations(range(m), size):
            for chosen in itertools.combinations(range(n), size):
                yield dict(zip(js, chosen, strict=True))


def test_no_pairing_scores_higher_and_none_is_a_mismatch():
    draw = random.Random(0)
    for _ in range(60):
        source, target = ([draw.randrange(4) for _ in range(draw.randrange(1, 6))] for _ in range(2))
        found = {j: i for j, i in enumerate(pairs(align(source, target), len(target))) if i is not None}
        assert all(source[i] == target[j] for j, i in found.items())
        assert list(found.values()) == sorted(set(found.values()))
        best = max(score(pairing, source, target) for pairing in all_pairings(len(source), len(target)))
        assert score(found, source, target) == best


def test_prompts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at most 77"):
        align(range(78), range(5))


def test_a_word_a_phrase_and_repetitions_are_found():
    assert subject_tokens(TOKENIZER, "a photo of a cat", "cat") == [5]
    assert subject_tokens(TOKENIZER, "A photo of a SKS Cat, asleep", "sks cat") == [5, 6]
    assert subject_tokens(TOKENIZER, "a cat and a cat", "cat") == [2, 5]
    assert subject_tokens(TOKENIZER, "a a a", "a a") == [1, 2, 3]


@pytest.mark.parametrize("word", ["dog", "ca", "cat photo", ""])
def test_a_missing_word_is_refused(word):
    with pytest.raises(ValueError, match="lacks the subject's word"):
        subject_tokens(TOKENIZER, "a photo of a cat", word)


def test_a_word_beyond_what_the_encoder_reads_is_refused():
    with pytest.warns(UserWarning, match="cat"), pytest.raises(ValueError, match="lacks"):
        subject_tokens(TOKENIZER, "very " * 80 + "cat", "cat")


@pytest.mark.parametrize(
    ("prompt", "old", "new", "wanted"),
    [
        ("a photo of an owl", "owl", "sks cat", "a photo of a sks cat"),
        ("An  Owl and an owl", "owl", "cat", "A  cat and a cat"),
        ("a cat", "cat", "owl", "an owl"),
        ("a cat and the cat", "cat", "ohwx cat", "an ohwx cat and the ohwx cat"),
        ("an owl", "owl", "unicorn", "a unicorn"),
        ("a watch", "watch", "hourglass", "an hourglass"),
        ("a red cat", "cat", "owl", "a red owl"),
        ("pasta owl", "owl", "cat", "pasta cat"),
    ],
)
def test_the_article_follows_the_new_word(prompt, old, new, wanted):
    assert replace_word(prompt, old, new) == wanted


def test_a_word_is_replaced_where_it_stands_whole():
    assert replace_word("a Cat on a catwalk", "cat", "sks dog") == "a sks dog on a catwalk"
    assert replace_word("a cat", "cat", r"\1") == r"a \1"
    for word in ("dog", ""):
        with pytest.raises(ValueError, match="lacks the word"):
            replace_word("a cat", word, "sks")
