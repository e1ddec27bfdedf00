"""--concept: files of any tool, several at once, each with its scale; and what takes the place of a subject then."""

import json
from pathlib import Path

import pytest
import torch
from command_line import refused
from safetensors.torch import save_file

from photoswap.__main__ import build_parser, main
from photoswap.commands.arguments import ScaledFile, scaled_file
from train.concepts import apply_concept
from weights.load import load

PROMPT = "a photo of a dog on grass"
LORA = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def tiny_file(tiny):
    """The model file of those flags."""
    return Path(tiny[1])


@pytest.fixture
def loras(tiny_file, tmp_path):
    """Two LoRAs and a word of Textual Inversion, as other tools write them."""
    model, g = load(tiny_file), torch.Generator().manual_seed(0)
    o, i = model.unet.mid.transformers[0].blocks[0].attn2.to_k.weight.shape
    for name in ("a", "b"):
        up, down = torch.randn(o, 2, generator=g), torch.randn(2, i, generator=g)
        tensors = {f"{LORA}.lora_up.weight": up, f"{LORA}.lora_down.weight": down, f"{LORA}.alpha": torch.tensor(2.0)}
        save_file(tensors, tmp_path / f"{name}.safetensors", {"modelspec.trigger_phrase": "ohwx cat"})
    save_file({"<toy>": torch.randn(2, model.config.text.width, generator=g)}, tmp_path / "toy.safetensors")
    return tmp_path


def test_a_file_and_its_scale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("odd:2").touch()
    cases = {
        "a.safetensors": ScaledFile(Path("a.safetensors")),
        "a.safetensors:0.8": ScaledFile(Path("a.safetensors"), 0.8),
        "a.safetensors:-1": ScaledFile(Path("a.safetensors"), -1.0),
        "odd:2": ScaledFile(Path("odd:2")),
        "odd:2:3": ScaledFile(Path("odd:2"), 3.0),
        "a:b": ScaledFile(Path("a:b")),
        "5": ScaledFile(Path("5")),
    }
    assert {text: scaled_file(text) for text in cases} == cases
    assert str(cases["a.safetensors:0.8"]) == "a.safetensors:0.8" and str(cases["5"]) == "5"


@pytest.mark.parametrize("scale", ["nan", "inf", "1e9", "-101"])
def test_a_scale_out_of_bounds(scale):
    with pytest.raises(ValueError, match="out of bounds"):
        build_parser().parse_args(["generate", "a cat", "--concept", f"a.safetensors:{scale}"])


def test_several_concepts_are_merged_into_a_checkpoint(tiny_file, loras):
    flags = ["--concept", f"{loras}/a.safetensors:0.5", "--concept", f"{loras}/b.safetensors", "--layout", "ldm"]
    assert main(["weights", "convert", str(tiny_file), str(loras / "out.safetensors"), *flags]) == 0
    found, paths = load(loras / "out.safetensors"), (loras / "a.safetensors", loras / "b.safetensors")
    wanted = apply_concept(load(tiny_file), *paths, scales=[0.5, 1])
    ours, theirs = (m.unet.mid.transformers[0].blocks[0].attn2.to_k.weight for m in (found, wanted))
    assert torch.equal(ours, theirs)


def test_generate_with_a_lora_and_a_word(tiny, loras):
    pictures = []
    for flags in ([], [f"{loras}/a.safetensors:0.5"], [f"{loras}/a.safetensors:0.5", f"{loras}/toy.safetensors"]):
        out = loras / f"{len(pictures)}.png"
        more = [word for file in flags for word in ("--concept", file)]
        assert main(["generate", "a <toy> on grass", "--steps", "1", *more, *tiny, "--out", str(out)]) == 0
        pictures.append(out.read_bytes())
    assert len(set(pictures)) == 3


def test_a_lora_has_no_word_for_its_subject(tiny, pictures, loras, tmp_path, capsys):
    swap = ["swap", str(pictures / "source.png"), "--prompt", PROMPT, "--subject", "dog", "--steps", "2", *tiny]
    lora = ["--concept", f"{loras}/a.safetensors:0.7"]
    told = refused(capsys, *swap, *lora, "--out", str(tmp_path / "no"))
    assert "a.safetensors" in told and "--target" in told and "ohwx cat" in told
    assert main([*swap, *lora, "--target", "ohwx cat", "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "swap.json").read_text())
    assert record["arguments"]["concept"] == [f"{loras}/a.safetensors:0.7"]
    assert record["settings"]["target_word"] == "ohwx cat"


def test_the_one_concept_with_a_word_is_the_subject(tiny, pictures, loras, tmp_path, capsys):
    swap = ["swap", str(pictures / "source.png"), "--prompt", PROMPT, "--subject", "dog", "--steps", "2", *tiny]
    both = ["--concept", f"{loras}/toy.safetensors", "--concept", f"{loras}/a.safetensors:0.7"]
    assert main([*swap, *both, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "swap.json").read_text())["settings"]["target_word"] == "<toy>"
    capsys.readouterr()
    save_file({"<other>": torch.ones(1, 24)}, tmp_path / "other.safetensors")
    told = refused(capsys, *swap, *both, "--concept", f"{tmp_path}/other.safetensors", "--out", str(tmp_path / "no"))
    assert "<toy>" in told and "<other>" in told and "--target" in told


def test_a_file_that_is_none(tiny, loras, capsys):
    (loras / "cut.safetensors").write_bytes((loras / "a.safetensors").read_bytes()[:50])
    for name in ("cut", "absent"):
        told = refused(capsys, "generate", "a cat", "--concept", f"{loras}/{name}.safetensors:0.5", *tiny)
        assert f"{name}.safetensors" in told
