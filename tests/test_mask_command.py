"""`photoswap mask`: what it writes and prints, and one sentence for every mistake."""

import numpy as np
import pytest
from command_line import PROMPT, files, refused
from PIL import Image

from photoswap.__main__ import main
from photoswap.masks import box_of


def test_mask_overlay_and_box(tiny, pictures, tmp_path, capsys):
    arguments = ["mask", str(pictures / "source.png"), "--word", "dog", "--prompt", PROMPT, *tiny]
    assert main([*arguments, "--out", str(tmp_path / "a.png")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert main([*arguments, "--out", str(tmp_path / "b.png")]) == 0
    assert files(tmp_path) == ["a-overlay.png", "a.png", "b-overlay.png", "b.png"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as mask, Image.open(tmp_path / "a-overlay.png") as overlay:
        assert mask.size == overlay.size == (300, 180) and mask.mode == "L"
        assert set(np.unique(mask)) <= {0, 255}
        assert told[-1] == "box " + " ".join(map(str, box_of(mask)))
    words = ["--prompt", PROMPT, "--subject", "dog", "--target", "cat", "--steps", "1"]
    words += ["--mask", str(tmp_path / "a.png"), *tiny, "--out", str(tmp_path / "swap")]
    assert main(["swap", str(pictures / "source.png"), *words]) == 0


def test_without_a_prompt_the_word_is_all_there_is(tiny, pictures, tmp_path):
    common = ["mask", str(pictures / "source.png"), "--word", "dog", *tiny]
    assert main([*common, "--out", str(tmp_path / "a.png")]) == 0
    assert main([*common, "--prompt", "a photo of a dog", "--out", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--word", "horse", "--prompt", PROMPT), 'lacks the subject\'s word "horse"'),
        (("--word", "dog", "--scale", "3"), "no attention layers at scale 3"),
        (("--word", "dog", "--scale", "9"), "1..8"),
        ((), "--word"),
    ],
)
def test_mistakes(tiny, pictures, tmp_path, capsys, flags, sentence):
    out = tmp_path / "mask.png"
    assert sentence in refused(capsys, "mask", pictures / "source.png", *flags, *tiny, "--out", out)
    assert files(tmp_path) == []


def test_neither_output_is_the_picture(tiny, tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "mask-overlay.png")
    picture, out = tmp_path / "mask-overlay.png", tmp_path / "mask.png"
    told = refused(capsys, "mask", picture, "--word", "dog", *tiny, "--out", out, "--overwrite")
    assert "is what is to be read" in told and files(tmp_path) == ["mask-overlay.png"]
    assert "want a name" in refused(capsys, "mask", picture, "--word", "dog", *tiny, "--out", tmp_path / "mask.jpg")
