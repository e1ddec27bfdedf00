"""Prompts to ids: open_clip's own rows for SD 2.x, the other padding for SD 1.x, and the warning for long prompts."""

import warnings

import open_clip
import pytest
import torch

from models import Tokenizer

PROMPTS = [
    "",
    "a photo of a striped red cat on a wooden floor",
    "  Ein   HÜBSCHES Bild, l'été: 3½ <b>&amp; 猫</b> 🐈 ",
    "sks dog's",
]


def test_rows_are_those_of_open_clip():
    rows = Tokenizer()(PROMPTS)
    assert rows.dtype == torch.int64 and rows.shape == (4, 77)
    assert torch.equal(rows, open_clip.get_tokenizer("ViT-H-14")(PROMPTS))


def test_known_ids():
    assert Tokenizer()("a photo of a cat")[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert Tokenizer("eot")("a photo of a cat")[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]


def test_padding_decides_the_empty_prompt():
    assert Tokenizer()("").tolist() == [[49406, 49407] + [0] * 75]
    assert Tokenizer("eot")("").tolist() == [[49406] + [49407] * 76]


def test_a_string_is_a_batch_of_one_and_none_a_batch_of_none():
    tokenizer = Tokenizer()
    assert torch.equal(tokenizer("a cat"), tokenizer(["a cat"]))
    assert tokenizer([]).shape == (0, 77)


def test_words_are_the_pieces_in_order():
    tokenizer = Tokenizer()
    pieces = tokenizer.words("A photo of xyzzyplugh")
    assert [piece for _, piece in pieces][:3] == ["a</w>", "photo</w>", "of</w>"]
    assert len(pieces) > 4 and pieces[-1][1].endswith("</w>") and not pieces[3][1].endswith("</w>")
    assert "".join(piece for _, piece in pieces[3:]) == "xyzzyplugh</w>"
    row = tokenizer("A photo of xyzzyplugh")[0]
    assert row[1 : 1 + len(pieces)].tolist() == [token for token, _ in pieces]


def test_75_words_fit_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = Tokenizer()("cat " * 75)[0]
    assert row[-1] == 49407 and row[1:-1].eq(2368).all()


def test_what_does_not_fit_is_named():
    with pytest.warns(UserWarning, match="takes 78 tokens and only 75 fit: lost 'on a mat'") as caught:
        row = Tokenizer()("cat " * 75 + "on a mat")[0]
    assert caught[0].filename == __file__  # the warning points at the caller
    assert torch.equal(row, Tokenizer()("cat " * 75)[0])


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match="padding is 'left'"):
        Tokenizer("left")
    with pytest.raises(ValueError, match="length is 1"):
        Tokenizer(length=1)
