"""train.checkpoint: a concept's file goes there and back, and goes on no base but its own."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tiny_model import tiny_model, write_tiny_model

from train.checkpoint import (
    CHECKPOINT,
    Concept,
    apply_concept,
    fill,
    load_concept,
    read,
    save_concept,
    write,
)
from weights import fingerprint
from weights.load import load, networks_of


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def concept(model, parts=("unet", "text"), shift: float = 0.01) -> Concept:
    tensors = {f"{p}.{k}": t + shift for p in parts for k, t in networks_of(model)[p].state_dict().items()}
    prompts = ("a photo of a sks cat", "a photo of a cat")
    return Concept(fingerprint(model), "tiny", "sks", "cat", *prompts, {"steps": 3, "betas": [0.9, 0.999]}, tensors)


def test_float32_keeps_every_bit_and_float16_rounds(model, tmp_path):
    learnt = concept(model)
    save_concept(learnt, tmp_path / "whole.safetensors")
    save_concept(learnt, tmp_path / "half.safetensors", torch.float16)
    whole, half = load_concept(tmp_path / "whole.safetensors"), load_concept(tmp_path / "half.safetensors")
    assert replace(whole, tensors={}) == replace(learnt, tensors={}) == replace(half, tensors={})
    assert whole.subject == "sks cat"
    assert whole.tensors.keys() == learnt.tensors.keys() == half.tensors.keys()
    for name, tensor in learnt.tensors.items():
        assert torch.equal(whole.tensors[name], tensor)
        assert torch.equal(half.tensors[name], tensor.half())
    with pytest.raises(ValueError, match="float32 or float16"):
        save_concept(learnt, tmp_path / "brain.safetensors", torch.bfloat16)


def test_the_same_concept_is_the_same_bytes(model, tmp_path):
    for name in ("one", "two"):
        save_concept(concept(model), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("parts", [("unet", "text"), ("unet",)])
def test_applying_gives_a_new_model_with_what_was_learnt(model, tmp_path, parts):
    learnt, before = concept(model, parts), fingerprint(model)
    save_concept(learnt, tmp_path / "concept.safetensors")
    applied = apply_concept(model, tmp_path / "concept.safetensors")
    for part, network in networks_of(applied).items():
        same = network is networks_of(model)[part]
        assert same == (part not in parts)
        for name, tensor in network.state_dict().items():
            assert same or torch.equal(tensor, learnt.tensors[f"{part}.{name}"])
    assert fingerprint(model) == before != fingerprint(applied)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_concept_learnt_in_float32_goes_on_the_base_in_any_dtype(model, tmp_path, dtype):
    learnt, path = concept(model), write_tiny_model(tmp_path / "tiny.safetensors")
    applied = apply_concept(load(path, dtype=dtype), learnt)
    assert applied.dtype == dtype
    assert fingerprint(applied) == fingerprint(apply_concept(model, learnt))


def test_another_base_is_refused(model):
    with pytest.raises(ValueError, match=r"'sks cat' was learnt on tiny .* load the base it was learnt on"):
        apply_concept(tiny_model(seed=1), concept(model))
    with pytest.raises(ValueError, match="learnt on"):
        apply_concept(apply_concept(model, concept(model)), concept(model))


def test_missing_unknown_and_misshapen_tensors_are_named_and_nothing_is_copied(model):
    before, learnt = fingerprint(model), concept(model)
    tensors = dict(learnt.tensors)
    tensors["unet.extra"] = tensors.pop("unet.conv_in.weight")
    tensors["text.final_norm.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"3 tensors .*text\.final_norm\.bias, unet\.conv_in\.weight, unet\.extra"):
        fill({p: networks_of(model)[p] for p in ("unet", "text")}, tensors)
    with pytest.raises(ValueError, match="3 tensors"):
        apply_concept(model, replace(learnt, tensors=tensors))
    assert fingerprint(model) == before


def test_files_that_are_no_concept_are_refused_with_a_sentence(model, tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_concept(concept(model), whole)
    (tmp_path / "cut").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "text").write_text("a photo of a cat")
    (tmp_path / "empty").touch()
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    save_file({"x": torch.zeros(1)}, tmp_path / "garbled", {"photoswap": "{"})
    write(tmp_path / "checkpoint", CHECKPOINT, {"x": torch.zeros(1)}, {"done": 1})
    write(tmp_path / "older", "concept", {"x": torch.zeros(1)}, {"word": "cat"})
    complaints = {
        "cut": "truncated",
        "text": "truncated",
        "empty": "truncated",
        "foreign": "another program",
        "garbled": "another program",
        "checkpoint": "is a learning checkpoint; a concept was wanted",
        "older": "another version",
        "absent": "no file",
    }
    for name, complaint in complaints.items():
        with pytest.raises(ValueError, match=complaint):
            apply_concept(model, tmp_path / name)
    with pytest.raises(ValueError, match="no file"):
        read(tmp_path, CHECKPOINT)


def test_a_write_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch):
    path = tmp_path / "concept.safetensors"
    save_concept(concept(model), path)
    before = path.read_bytes()

    def fail(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("train.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_concept(concept(model, shift=0.5), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
