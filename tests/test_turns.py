"""Several subjects of one picture: the prompts of each swap, and the command that does them in turn."""

import json

import numpy as np
import pytest
import torch
from command_line import files, refused
from PIL import Image

from photoswap.__main__ import main
from photoswap.turns import Swapping, turns

PROMPT = "a photo of a dog and a cat on grass"


def test_each_turn_speaks_of_the_subjects_before_it_in_plain_words():
    first, second = turns(PROMPT, [Swapping("dog", "sks fox", "fox"), Swapping("cat", "sks owl", "owl")])
    assert first.source == PROMPT and first.target == PROMPT.replace("dog", "sks fox")
    assert second.source == PROMPT.replace("dog", "fox")
    assert second.target.replace(" an ", " a ") == "a photo of a fox and a sks owl on grass"
    assert (first.source_word, second.target_word) == ("dog", "sks owl")


def test_two_subjects_may_change_places():
    first, second = turns(PROMPT, [Swapping("dog", "sks cat", "cat"), Swapping("cat", "sks dog", "dog")])
    assert first.target == "a photo of a sks cat and a cat on grass"
    assert (second.source, second.target) == (
        "a photo of a cat and a cat on grass",
        "a photo of a cat and a sks dog on grass",
    )


def test_a_subject_that_the_prompt_lacks():
    with pytest.raises(ValueError, match='lacks the word "horse"'):
        turns(PROMPT, [Swapping("dog", "fox", "fox"), Swapping("horse", "owl", "owl")])


def halves(folder):
    """Masks of the left and of the right of the source, some way apart."""
    masks = [Image.new("L", (300, 180)) for _ in range(2)]
    for mask, name, box in zip(masks, ("left", "right"), ((20, 40, 120, 160), (180, 40, 280, 160)), strict=True):
        mask.paste(255, box)
        mask.save(folder / f"{name}.png")
    return masks


def swapped(tiny, pictures, out, *flags):
    source = str(pictures / "source.png")
    assert main(["swap", source, "--prompt", PROMPT, "--steps", "2", *map(str, flags), *tiny, "--out", str(out)]) == 0
    with Image.open(out / "result.png") as result:
        return np.array(result)


def test_two_concepts_in_one_command(tiny, pictures, concept, tmp_path):
    """As one swap after the other: each in its own mask, and neither touches the other nor the ground."""
    left, right = (np.array(mask) > 0 for mask in halves(tmp_path))
    dog = ["--subject", "dog", "--concept", concept, "--mask", tmp_path / "left.png"]
    cat = ["--subject", "cat", "--concept", concept, "--mask", tmp_path / "right.png"]
    both = swapped(tiny, pictures, tmp_path / "both", *dog, *cat)
    one = swapped(tiny, pictures, tmp_path / "one", *dog)
    with Image.open(pictures / "source.png") as picture:
        source = np.array(picture)
    assert (both[left] == one[left]).all() and (both[left] != source[left]).any()
    assert (both[right] != source[right]).any() and (one[right] == source[right]).all()
    assert (both[~left & ~right] == source[~left & ~right]).all()
    record = json.loads((tmp_path / "both" / "swap.json").read_text())
    assert [swap["source_word"] for swap in record["swaps"]] == ["dog", "cat"]
    assert record["swaps"][1]["source_prompt"] == PROMPT.replace("dog", "cat")
    with Image.open(tmp_path / "both" / "grid.png") as rows, Image.open(tmp_path / "one" / "grid.png") as row:
        assert rows.width == row.width and rows.height > 1.8 * row.height


def test_without_masks_each_is_found_by_its_own_word(tiny, pictures, tmp_path, monkeypatch):
    from photoswap import masks

    asked = []

    def find(model, picture, prompt, words, **more):
        asked.append((prompt, words))
        return [masks.Found(mask, masks.box_of(mask), torch.zeros(1)) for mask in halves(tmp_path)]

    given = ["--subject", "dog", "--target", "fox", "--subject", "cat", "--target", "cow"]
    files_given = ["--mask", tmp_path / "left.png", "--mask", tmp_path / "right.png"]
    halves(tmp_path)
    by_files = swapped(tiny, pictures, tmp_path / "a", *given, *files_given)
    monkeypatch.setattr(masks, "find_subjects", find)
    assert (swapped(tiny, pictures, tmp_path / "b", *given) == by_files).all()
    assert asked == [(PROMPT, ["dog", "cat"])]


def test_a_crop_changes_nothing_outside_its_box_and_works_on_the_subject_enlarged(tiny, pictures, tmp_path):
    halves(tmp_path)
    given = ["--subject", "dog", "--target", "fox", "--mask", tmp_path / "left.png"]
    cropped = swapped(tiny, pictures, tmp_path / "a", *given, "--crop")
    with Image.open(pictures / "source.png") as picture:
        source = np.array(picture)
    settings = json.loads((tmp_path / "a" / "swap.json").read_text())["settings"]
    assert settings["box"] == [0, 20, 140, 180] and settings["source_size"] == [140, 160]
    inside = np.zeros(source.shape[:2], dtype=bool)
    inside[40:160, 20:120] = True
    assert (cropped[~inside] == source[~inside]).all() and (cropped[inside] != source[inside]).any()
    assert (cropped != swapped(tiny, pictures, tmp_path / "b", *given)).any()


def test_adain_and_swap_anything_by_a_word(tiny, pictures, tmp_path):
    given = ["--subject", "dog", "--target", "fox", "--mask-word", "dog"]
    plain = swapped(tiny, pictures, tmp_path / "a", *given)
    assert (swapped(tiny, pictures, tmp_path / "b", *given, "--adain") != plain).any()
    assert (swapped(tiny, pictures, tmp_path / "c", *given, "--method", "swap-anything") != plain).any()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--subject", "cat"), "2 --subject and 1 --target; want as many"),
        (("--subject", "cat", "--target", "cow", "--mask", "m.png"), "2 --subject and 1 --mask"),
        (("--subject", "cat", "--target", "cow", "--mask-word", "dog"), "each found by its own word"),
        (("--subject", "cat", "--target", "cow", "--target-prompt", "x"), "--target-prompt changes nothing"),
        (("--mask", "m.png", "--mask-word", "dog"), "--mask-word changes nothing beside --mask"),
        (("--adain",), "give --mask FILE"),
        (("--method", "swap-anything"), "--method swap-anything goes by a mask"),
    ],
)
def test_what_does_not_go_together(tiny, pictures, tmp_path, capsys, flags, sentence):
    Image.new("L", (300, 180), 255).save(tmp_path / "m.png")
    given = [str(tmp_path / flag) if flag == "m.png" else flag for flag in flags]
    line = ["swap", pictures / "source.png", "--prompt", PROMPT, "--subject", "dog", "--target", "fox", *given, *tiny]
    assert sentence in refused(capsys, *line, "--out", tmp_path / "out")
    assert files(tmp_path) == ["m.png"]
