"""`photoswap swap`: what it writes, and one sentence for every mistake."""

import json

import numpy as np
import pytest
from command_line import PROMPT, FullDisk, files, paint, refused, swap_arguments
from PIL import Image
from tiny_model import write_tiny_model

from photoswap.__main__ import main


def test_swap_writes_two_pictures_and_a_record_that_repeats_them(tiny, pictures, concept, tmp_path):
    flags = ["--prompt", PROMPT, "--subject", "dog", "--concept", str(concept), "--steps", "4", "--blend"]
    arguments = ["swap", str(pictures / "source.png"), *flags, *tiny]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 0
    assert files(tmp_path / "a") == ["grid.png", "result.png", "swap.json"]
    for name in ("grid.png", "result.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "result.png") as result:
        assert result.size == (300, 180)
    record = json.loads((tmp_path / "a" / "swap.json").read_text())
    assert record["seed"] is None and record["arguments"]["source"] == str(pictures / "source.png")
    assert record["settings"]["source_prompt"] == PROMPT
    assert record["settings"]["target_prompt"] == "a photo of a sks cat on grass"
    assert record["settings"]["method"]["steps"] == 4
    assert set(record["seconds"]) >= {"load", "invert", "denoise", "decode"}


def test_swap_of_an_inversion_is_the_swap_of_its_picture(tiny, pictures, tmp_path):
    common = ["--subject", "dog", "--target", "red fox", *tiny]
    source, held = str(pictures / "source.png"), str(tmp_path / "held.safetensors")
    invert = ["invert", source, "--prompt", PROMPT, "--steps", "3", "--out", held, *tiny]
    assert main([*invert, "--reconstruction", str(tmp_path / "again.png")]) == 0
    assert main(["swap", held, *common, "--out", str(tmp_path / "a")]) == 0
    assert main(["swap", source, "--prompt", PROMPT, "--steps", "3", *common, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "result.png").read_bytes() == (tmp_path / "b" / "result.png").read_bytes()
    assert (tmp_path / "again.png").is_file()


def test_a_float32_inversion_is_swapped_with_the_model_in_bfloat16(tiny, concept, tmp_path):
    """And with a concept: both are known by the values in their files."""
    held, words = str(tmp_path / "held.safetensors"), ["--subject", "dog", "--target", "sks cat"]
    base = ["--concept", str(concept), *tiny]
    assert main(["invert", "--prompt", PROMPT, "--seed", "5", "--steps", "2", "--out", held, *base]) == 0
    assert main(["swap", held, *words, *base, "--dtype", "bfloat16", "--out", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "result.png").is_file()
    assert main(["swap", held, *words, *tiny, "--dtype", "bfloat16", "--out", str(tmp_path / "b")]) == 2


def test_swap_of_a_drawn_source(tiny, tmp_path):
    flags = ["--prompt", PROMPT, "--subject", "dog", "--target", "cat", "--steps", "2", "--seed", "5"]
    assert main(["swap", *flags, *tiny, "--out", str(tmp_path / "a")]) == 0
    held = str(tmp_path / "held.safetensors")
    assert main(["invert", "--prompt", PROMPT, "--seed", "5", "--steps", "2", "--out", held, *tiny]) == 0
    assert main(["swap", held, "--subject", "dog", "--target", "cat", *tiny, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "result.png").read_bytes() == (tmp_path / "b" / "result.png").read_bytes()


def test_outside_a_mask_the_source_is_kept(tiny, pictures, tmp_path):
    mask = Image.new("L", (300, 180), 0)
    mask.paste(255, (100, 50, 200, 130))
    mask.save(tmp_path / "mask.png")
    flags = [
        "--prompt",
        PROMPT,
        "--subject",
        "dog",
        "--target",
        "cat",
        "--steps",
        "2",
        "--mask",
        str(tmp_path / "mask.png"),
    ]
    assert main(["swap", str(pictures / "source.png"), *flags, *tiny, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "result.png") as result, Image.open(pictures / "source.png") as source:
        outside = np.array(mask) == 0
        assert (np.array(result)[outside] == np.array(source)[outside]).all()


def test_several_targets_in_one_run(tiny, pictures, tmp_path):
    """Each as in a command of its own; the source's rows are shared, the grid and the record show all."""
    line = ["swap", str(pictures / "source.png"), "--prompt", PROMPT, "--subject", "dog", "--steps", "4", *tiny]
    targets = ["cat", "red fox", "hat"]
    flags = [flag for target in targets for flag in ("--target", target)]
    assert main([*line, *flags, "--out", str(tmp_path / "all")]) == 0
    results = [f"result-{i}.png" for i in (1, 2, 3)]
    assert files(tmp_path / "all") == ["grid.png", *results, "swap.json"]
    record = json.loads((tmp_path / "all" / "swap.json").read_text())
    assert [swap["target_word"] for swap in record["swaps"]] == targets
    shown = []
    for target, name in zip(targets, results, strict=True):
        assert main([*line, "--target", target, "--out", str(tmp_path / name)]) == 0
        with Image.open(tmp_path / "all" / name) as one, Image.open(tmp_path / name / "result.png") as alone:
            shown.append(np.array(one).astype(int))
            assert abs(shown[-1] - np.array(alone)).max() <= 1  # one of 255: rounding
    assert all(abs(shown[i] - shown[j]).max() > 8 for i, j in ((0, 1), (0, 2), (1, 2)))
    single = json.loads((tmp_path / results[0] / "swap.json").read_text())["settings"]
    assert single["row_calls"] < record["settings"]["row_calls"] < 3 * single["row_calls"]
    with Image.open(tmp_path / "all" / "grid.png") as wide, Image.open(tmp_path / results[0] / "grid.png") as three:
        assert wide.height == three.height and wide.width > 1.6 * three.width


def test_prompts_of_several_targets(tiny, pictures, tmp_path, capsys):
    """One word in several prompts, or a word for each; their results are refused where they are there already."""
    told = ["--target-prompt", "a photo of a cat on grass", "--target-prompt", "a drawing of a cat on grass"]
    line = [str(a) for a in swap_arguments(pictures / "source.png", tiny, tmp_path / "out", "--steps", 1)]
    assert main([*line, *told]) == 0
    record = json.loads((tmp_path / "out" / "swap.json").read_text())
    assert [swap["target_prompt"] for swap in record["swaps"]] == told[1::2]
    capsys.readouterr()
    (tmp_path / "out" / "grid.png").unlink()
    (tmp_path / "out" / "swap.json").unlink()
    assert "result-1.png is there already" in refused(capsys, *line, *told)
    assert "2 --target and 1 --target-prompt; want as many" in refused(capsys, *line, "--target", "hat", *told[:2])


def test_no_such_picture(tiny, tmp_path, capsys):
    told = refused(capsys, *swap_arguments(tmp_path / "nowhere.png", tiny, tmp_path / "out"))
    assert "no such picture" in told and "nowhere.png" in told
    assert files(tmp_path) == []


def test_no_such_inversion(tiny, tmp_path, capsys):
    told = refused(capsys, *swap_arguments(tmp_path / "nowhere.safetensors", tiny, tmp_path / "out"))
    assert "an inversion was wanted" in told


def test_no_such_concept(tiny, pictures, tmp_path, capsys):
    more = ("--concept", tmp_path / "nowhere.safetensors")
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "out", *more))
    assert "nowhere.safetensors" in told
    assert files(tmp_path) == []


def test_not_a_picture(tiny, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("not a picture")
    told = refused(capsys, *swap_arguments(tmp_path / "notes.png", tiny, tmp_path / "out"))
    assert "notes.png is not a picture" in told
    assert files(tmp_path) == ["notes.png"]


@pytest.mark.parametrize("kind", ["concept", "inversion"])
def test_a_truncated_concept_or_inversion(kind, tiny, pictures, concept, tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(concept.read_bytes()[:5000])
    source = tmp_path / "cut.safetensors" if kind == "inversion" else pictures / "source.png"
    more = ("--concept", tmp_path / "cut.safetensors") if kind == "concept" else ()
    told = refused(capsys, *swap_arguments(source, tiny, tmp_path / "out", *more))
    assert "cut.safetensors is no" in told
    assert files(tmp_path) == ["cut.safetensors"]


def test_a_concept_of_another_model(concept, pictures, tmp_path, capsys):
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    more = ("--concept", concept)
    told = refused(capsys, *swap_arguments(pictures / "source.png", ["--model", other], tmp_path / "out", *more))
    assert "was learnt on" in told
    assert files(tmp_path) == ["other.safetensors"]


def test_an_inversion_of_another_model(tiny, tmp_path, capsys):
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    held = tmp_path / "held.safetensors"
    assert main(["invert", "--prompt", PROMPT, "--steps", "1", "--out", str(held), *tiny]) == 0
    capsys.readouterr()
    told = refused(capsys, *swap_arguments(held, ["--model", other], tmp_path / "out"))
    assert "another model" in told
    told = refused(capsys, *swap_arguments(held, tiny, tmp_path / "out", "--steps", "2"))
    assert "has 1 steps, the swap 2" in told
    assert files(tmp_path) == ["held.safetensors", "other.safetensors"]


def test_a_prompt_without_the_subject(tiny, pictures, tmp_path, capsys):
    source = pictures / "source.png"
    line = ["swap", source, "--prompt", PROMPT, "--subject", "horse", "--target", "cat", *tiny]
    assert 'lacks the word "horse"' in refused(capsys, *line, "--out", tmp_path / "out")
    told = refused(capsys, *swap_arguments(source, tiny, tmp_path / "out", "--target-prompt", "a photo of a fox"))
    assert 'lacks the subject\'s word "cat"' in told
    assert files(tmp_path) == []


def test_prompts_that_are_missing(tiny, pictures, tmp_path, capsys):
    told = refused(capsys, "swap", pictures / "source.png", "--subject", "dog", *tiny, "--out", tmp_path / "out")
    assert "--prompt" in told
    told = refused(capsys, "swap", "--prompt", PROMPT, "--subject", "dog", *tiny, "--out", tmp_path / "out")
    assert "--concept or --target" in told


@pytest.mark.parametrize(("flag", "value"), [("--phi", 5), ("--M", -1), ("--A", 99)])
def test_lambda_outside_the_steps(tiny, pictures, tmp_path, capsys, flag, value):
    more = ("--steps", 4, flag, value)
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "out", *more))
    assert str(value) in told and ("0..4" in told or "0..1000" in told)
    assert files(tmp_path) == []


@pytest.mark.parametrize("size", ["32", "0x64", "100x64"])
def test_a_size_too_small_or_between(tiny, pictures, tmp_path, capsys, size):
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "out", "--size", size))
    assert "multiples of 64" in told
    assert files(tmp_path) == []


def test_a_picture_too_small(tiny, tmp_path, capsys):
    paint((8, 300), 0).save(tmp_path / "thin.png")
    told = refused(capsys, *swap_arguments(tmp_path / "thin.png", tiny, tmp_path / "out"))
    assert "8 x 300 pixels; want at least 16" in told


def test_a_mask_of_another_size(tiny, pictures, tmp_path, capsys):
    Image.new("L", (20, 20), 255).save(tmp_path / "mask.png")
    more = ("--mask", tmp_path / "mask.png", "--steps", 1)
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "out", *more))
    assert "20 x 20" in told and "300 x 180" in told
    assert files(tmp_path) == ["mask.png"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_disk_that_fills_up_while_swapping(tiny, pictures, tmp_path, capsys, monkeypatch, at):
    monkeypatch.setattr("weights.atomic.os.fsync", FullDisk(at))
    told = refused(capsys, *swap_arguments(pictures / "source.png", tiny, tmp_path / "new" / "out", "--steps", 1))
    assert "the disk is full" in told and "--out" in told
    assert files(tmp_path) == []


@pytest.mark.filterwarnings("always::UserWarning")
def test_an_m_that_phi_carries_with_it_is_told(tiny, pictures, tmp_path, capsys):
    line = [str(a) for a in swap_arguments(pictures / "source.png", tiny, tmp_path / "out", "--steps", 4, "--phi", 2)]
    assert main([*line, "--M", "2"]) == 0
    assert capsys.readouterr().err == "photoswap: --M 2 changes nothing: phi, 2 steps long, carries M with it\n"
    assert main([*line, "--M", "3", "--overwrite"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("method", ["plain", "sdedit", "diffedit", "blended-latent-diffusion", "inversion-free"])
def test_swap_by_a_method_on_latents(tiny, pictures, tmp_path, method):
    """Each with its own guidance; those that invert nothing say so in the record."""
    Image.new("L", (300, 180), 255).save(tmp_path / "mask.png")
    flags = ["--prompt", PROMPT, "--subject", "dog", "--target", "cat", "--steps", "4", "--method", method]
    flags += ["--mask", str(tmp_path / "mask.png")]
    assert main(["swap", str(pictures / "source.png"), *flags, *tiny, "--out", str(tmp_path / "out")]) == 0
    settings = json.loads((tmp_path / "out" / "swap.json").read_text())["settings"]
    assert settings["method"]["name"] == method
    assert settings["inversion"]["method"] == ("direct" if method in ("plain", "diffedit") else "none")
    rows = {"plain": 8, "sdedit": 4, "diffedit": 40 + 6, "blended-latent-diffusion": 6, "inversion-free": 4 * 2 + 3 * 2}
    assert settings["row_calls"] == rows[method]
    assert settings["method"]["guidance_scale"] == (2.3 if method == "inversion-free" else 7.5)


def test_a_method_brings_its_own_number_of_steps(tiny, pictures, tmp_path):
    flags = ["--prompt", PROMPT, "--subject", "dog", "--target", "cat", "--method", "inversion-free"]
    assert main(["swap", str(pictures / "source.png"), *flags, *tiny, "--out", str(tmp_path / "out")]) == 0
    settings = json.loads((tmp_path / "out" / "swap.json").read_text())["settings"]
    assert settings["method"]["steps"] == 12 and settings["row_calls"] == 44


def test_swap_by_a_reference(tiny, pictures, tmp_path):
    """Of its places those inside its own mask are looked at."""
    for name, box in (("mask", (100, 50, 200, 130)), ("left", (0, 0, 150, 180)), ("right", (150, 0, 300, 180))):
        mask = Image.new("L", (300, 180), 0)
        mask.paste(255, box)
        mask.save(tmp_path / f"{name}.png")
    flags = ["--prompt", PROMPT, "--subject", "dog", "--target", "cat", "--steps", "2"]
    flags += ["--method", "reference-attention", "--set", "start_step=0", "--set", "start_layer=0"]
    flags += ["--mask", str(tmp_path / "mask.png"), "--reference", str(pictures / "source.png")]
    for name in ("left", "right"):
        masked = [*flags, "--reference-mask", str(tmp_path / f"{name}.png"), *tiny]
        assert main(["swap", str(pictures / "source.png"), *masked, "--out", str(tmp_path / name)]) == 0
    settings = json.loads((tmp_path / "left" / "swap.json").read_text())["settings"]
    assert settings["row_calls"] == 10 and settings["reference"] == {"method": "direct", "prompt": ""}
    results = [(tmp_path / name / "result.png").read_bytes() for name in ("left", "right")]
    assert results[0] != results[1]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--method", "blended-latent-diffusion"], "goes by a mask of the subject: give --mask FILE"),
        (["--method", "sdedit", "--inversion", "direct"], "--inversion changes nothing with sdedit, which inverts"),
        (["--reference", "a.png"], "--reference changes nothing with photoswap"),
        (["--method", "reference-attention", "--mask", "a.png"], "give --reference and --reference-mask"),
    ],
)
def test_what_a_method_wants_is_asked_for_and_nothing_else_taken(tiny, pictures, tmp_path, capsys, flags, sentence):
    Image.new("L", (300, 180), 255).save(tmp_path / "a.png")
    flags = [str(tmp_path / flag) if flag == "a.png" else flag for flag in flags]
    line = swap_arguments(pictures / "source.png", tiny, tmp_path / "out")
    assert sentence in refused(capsys, *line, *flags)
