"""train.concepts: files of Textual Inversion and of Custom Diffusion, read and written as their own tools do."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model

from train.concepts import (
    Added,
    Concept,
    LowRank,
    Replaced,
    apply_concept,
    open_concept,
    save_concept,
    save_delta,
    save_embeds,
)
from train.concepts.foreign import note_tensor
from weights import fingerprint
from weights.load import networks_of

TO_K, TO_V = (f"unet.mid.transformers.0.blocks.0.attn2.to_{which}.weight" for which in "kv")
LDM = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2"
HF = "mid_block.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def weight(model, name=TO_K) -> torch.Tensor:
    return networks_of(model)["unet"].get_parameter(name.removeprefix("unet."))


def about(model, token="<new1>"):
    return (fingerprint(model), "tiny", token, "cat", f"a photo of a {token} cat", "a photo of a cat", {})


# Textual Inversion


def test_words_are_written_as_diffusers_writes_them_and_read_back(model, tmp_path):
    rows = torch.randn(3, model.config.text.width)
    learnt = Concept(*about(model, "<cat-toy>"), words={"<cat-toy>": rows})
    save_embeds(learnt, tmp_path / "learned_embeds.safetensors")
    assert {k: torch.equal(t, rows) for k, t in load_file(tmp_path / "learned_embeds.safetensors").items()} == {
        "<cat-toy>": True
    }
    found = open_concept(tmp_path / "learned_embeds.safetensors")
    assert found.about == learnt.about and torch.equal(found.words["<cat-toy>"], rows)
    applied = apply_concept(model, found)
    assert len(applied.tokenizer.words("a <cat-toy> here")) == 5
    assert not torch.equal(applied.encode_text("a <cat-toy>"), model.encode_text("a <cat-toy>"))


@pytest.mark.parametrize("name", ["emb_params", "string_to_param", "vector", "bin"])
def test_words_of_other_tools(name, model, tmp_path):
    rows = torch.randn(1 if name in ("vector", "bin") else 2, model.config.text.width)
    path = tmp_path / ("toy.pt" if name == "string_to_param" else "toy.bin" if name == "bin" else "toy.safetensors")
    if name == "string_to_param":
        content = {
            "string_to_token": {"*": torch.tensor(265)},
            "string_to_param": {"*": rows},
            "name": "toy",
            "step": 3,
        }
        torch.save(content, path)
    elif name == "bin":
        torch.save({"toy": rows[0]}, path)
    else:
        save_file({name: rows} if name == "emb_params" else {"toy": rows[0].clone()}, path)
    assert torch.equal(open_concept(path).words["toy"], rows)
    assert len(apply_concept(model, path).text_encoder.token_embedding.weight) >= len(rows)


def bad_words(width) -> dict[str, tuple[dict, str]]:
    return {
        "two axes too many": ({"<a>": torch.ones(1, 1, width)}, "want 1 to 75 rows"),
        "no rows": ({"<a>": torch.ones(0, width)}, "want 1 to 75 rows"),
        "too many": ({"<a>": torch.ones(76, width)}, "want 1 to 75 rows"),
        "two words in one": ({"red cat": torch.ones(1, width)}, "one word"),
        "an empty word": ({" ": torch.ones(1, width)}, "one word"),
        "other widths": ({"<a>": torch.ones(1, width), "<b>": torch.ones(1, 3)}, "want one width"),
        "NaN": ({"<a>": torch.full((1, width), torch.nan)}, "NaN"),
        "int8": ({"<a>": torch.ones(1, width, dtype=torch.int8)}, "int8"),
        "SDXL": ({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, "SDXL"),
        "more than its rows": ({"emb_params": torch.ones(1, width), "x": torch.ones(1)}, "'x'"),
    }


@pytest.mark.parametrize("case", bad_words(8))
def test_a_crafted_embedding_is_one_sentence(case, model, tmp_path):
    tensors, told = bad_words(model.config.text.width)[case]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=told) as error:
        open_concept(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_words_of_another_width_are_refused_by_the_model(model, tmp_path):
    save_file({"<a>": torch.ones(1, 768)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"'<a>' is for SD 1.x and does not fit this model, tiny"):
        apply_concept(model, tmp_path / "a.safetensors")


def test_only_words_are_written_as_words(model, tmp_path):
    for one, told in (({}, "no word"), ({TO_K: Replaced(weight(model))}, "also changes")):
        words = {"<a>": torch.ones(1, 24)} if one else {}
        with pytest.raises(ValueError, match=told):
            save_embeds(Concept(*about(model), one, words), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


# Custom Diffusion


@pytest.mark.parametrize("form", ["diffusers", "ldm"])
def test_a_delta_is_written_in_both_forms_and_read_back(form, model, tmp_path):
    """Also from changes of other kinds: it holds the weights themselves."""
    row = torch.randn(1, model.config.text.width)
    changes = {TO_K: Replaced(weight(model) * 2), TO_V: Added(torch.ones_like(weight(model, TO_V)))}
    learnt = Concept(*about(model), changes, {"<new1>": row})
    save_delta(learnt, tmp_path / "delta.bin", model, form)
    content = torch.load(tmp_path / "delta.bin", weights_only=True)
    if form == "diffusers":
        assert content.pop("photoswap").dtype == torch.uint8  # our note
        assert {k: set(v) for k, v in content.items()} == {
            "unet": {f"{HF}.to_k.weight", f"{HF}.to_v.weight"},
            "modifier_token": {"<new1>"},
        }
        assert open_concept(tmp_path / "delta.bin").about == learnt.about
        assert content["modifier_token"]["<new1>"].shape == (model.config.text.width,)
    else:
        assert set(content["state_dict"]) == {f"{LDM}.to_k.weight", f"{LDM}.to_v.weight", "embed"}
    found, wanted = apply_concept(model, tmp_path / "delta.bin"), apply_concept(model, learnt)
    for name in (TO_K, TO_V):
        torch.testing.assert_close(weight(found, name), weight(wanted, name), rtol=0, atol=0)
    assert torch.equal(found.encode_text("a <new1> cat"), wanted.encode_text("a <new1> cat"))


@pytest.mark.parametrize("leaf", ["to_k_custom_diffusion.weight", "to_k.weight"])
def test_diffusers_safetensors_delta(leaf, model, tmp_path):
    save_file({f"{HF}.processor.{leaf}": weight(model) * 2}, tmp_path / "a.safetensors")
    assert torch.equal(weight(apply_concept(model, tmp_path / "a.safetensors")), weight(model) * 2)


def test_a_compressed_delta_is_added_and_has_a_scale(model, tmp_path):
    o, i = weight(model).shape
    u, v = torch.randn(o, 3), torch.randn(3, i)
    torch.save({"state_dict": {f"{LDM}.to_k.weight": {"u": u, "v": v}}}, tmp_path / "delta.ckpt")
    found = apply_concept(model, tmp_path / "delta.ckpt", scales=[0.5])
    torch.testing.assert_close(weight(found), weight(model) + 0.5 * u @ v)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({f"{HF}.to_k.weight": torch.ones(2, 2), "strange": torch.ones(2)}, "strange"),
        ({f"{HF}.to_k.weight": {"u": torch.ones(2, 2)}}, r"want a weight, or u \(o, r\) and v"),
        ({f"{HF}.to_k.weight": {"u": torch.ones(2, 2), "v": torch.ones(3, 2)}}, "want a weight"),
        ({f"{HF}.to_k.weight": torch.ones(2, 2), f"{LDM}.to_k.weight": torch.ones(2, 2)}, "twice"),
        ({"middle.attn2.to_k.weight": torch.ones(2, 2)}, "middle.attn2"),
        ({f"{HF}.to_k.weight": torch.ones(2, 2) / 0}, "infinity"),
        ({f"{HF}.to_k.weight": torch.ones(2, 2), "modifier_token": {"a b": torch.ones(4)}}, "one word"),
    ],
)
def test_a_crafted_delta_is_one_sentence(content, told, tmp_path):
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=told) as error:
        open_concept(tmp_path / "a.bin")
    assert "a.bin" in str(error.value) and "\n" not in str(error.value)


def test_a_pickle_that_asks_for_a_program_is_not_run(tmp_path):
    class Program:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"unet": {f"{HF}.to_k.weight": Program()}}, tmp_path / "a.bin")
    with pytest.raises(ValueError, match="it was not run"):
        open_concept(tmp_path / "a.bin")


def test_what_a_delta_cannot_hold_is_not_written(model, tmp_path):
    other = TO_K.replace("attn2", "attn1")
    cases = [
        ({other: Replaced(weight(model, other))}, {}, "diffusers", "attn1.to_k"),
        ({TO_K: LowRank(torch.ones(3, 1), torch.ones(1, 3), 1.0)}, {}, "diffusers", "another shape"),
        ({}, {"<new1>": torch.ones(2, 24)}, "diffusers", "one row for a word"),
        ({}, {"sks": torch.ones(1, 24)}, "ldm", "<new1>, <new2>"),
    ]
    for changes, words, form, told in cases:
        with pytest.raises(ValueError, match=told):
            save_delta(Concept(*about(model), changes, words), tmp_path / "a.bin", model, form)
    assert not list(tmp_path.iterdir())


def test_a_concept_of_ours_is_opened_too(model, tmp_path):
    learnt = Concept(*about(model, "sks"), {TO_K: Replaced(weight(model))})
    save_concept(learnt, tmp_path / "a.safetensors")
    assert open_concept(tmp_path / "a.safetensors").about == learnt.about


# our notes in them


NOTES = [
    ('{"kind": "words"', "notes that are damaged"),
    ("[1]", "want names and values"),
    ('{"kind": "lora", "version": 1}', "is no"),
    ('{"kind": "KIND", "version": 2}', "of this version of the program"),
    ('{"kind": "KIND", "version": 1}', "is a damaged"),
]


@pytest.mark.parametrize(("note", "told"), NOTES)
def test_a_damaged_note_is_told_in_one_sentence(note, told, model, tmp_path):
    words, delta = tmp_path / "words.safetensors", tmp_path / "delta.bin"
    save_file({"<toy>": torch.ones(1, 24)}, words, {"photoswap": note.replace("KIND", "words")})
    content = {f"{HF}.to_k.weight": weight(model).detach()}
    torch.save(content | {"photoswap": note_tensor(note.replace("KIND", "delta"))}, delta)
    for path in (words, delta):
        with pytest.raises(ValueError, match=path.name):
            open_concept(path)
    with pytest.raises(ValueError, match=told):
        open_concept(delta)


def test_what_is_no_note_is_left_alone(model, tmp_path):
    for ill in (torch.ones(2), torch.ones(2, 2, dtype=torch.uint8)):
        torch.save({f"{HF}.to_k.weight": weight(model).detach(), "photoswap": ill}, tmp_path / "delta.bin")
        assert open_concept(tmp_path / "delta.bin").base == ""
