"""train.concepts: what a concept leaves alone is shared, changes add up, and its file says nothing unchecked."""

import copy
import gc
import json

import pytest
import torch
from safetensors.torch import save_file
from spoiled import contents, put, spoiled_bytes, spoiled_tensors, spoiled_texts
from tiny_model import tiny_model, write_tiny_model

import train.concepts.apply
from train.concepts import (
    Added,
    Concept,
    LowRank,
    Replaced,
    TokenRows,
    apply_concept,
    apply_in_place,
    changed,
    load_concept,
    replaced,
    save_concept,
)
from weights import fingerprint
from weights.fingerprint_v1 import fingerprint_v1
from weights.load import load, networks_of

EMBEDDING = "text.token_embedding.weight"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def parameters(model) -> dict[str, torch.Tensor]:
    return {f"{n}.{k}": t for n, network in networks_of(model).items() for k, t in network.state_dict().items()}


def linear_of(model) -> str:
    """A parameter of the first cross-attention."""
    return next(name for name in parameters(model) if name.endswith("attn2.to_k.weight"))


def concept(model, changes=None, words=None, token="sks") -> Concept:
    prompts = (f"a photo of a {token} cat", "a photo of a cat")
    settings = {"steps": 3, "betas": [0.9, 0.999]}
    return Concept(fingerprint(model), "tiny", token, "cat", *prompts, settings, changes or {}, words or {})


def complete(model, networks=("unet", "text"), shift=0.01, **more) -> Concept:
    """As DreamBooth learns one: every parameter of some networks."""
    tensors = {k: t + shift for k, t in parameters(model).items() if k.split(".")[0] in networks}
    return concept(model, replaced(tensors), **more)


def low_rank(weight, rank=2, alpha=4.0, seed=0) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(len(weight), rank, generator=g), torch.randn(rank, weight.shape[1], generator=g), alpha)


# What a change does


def test_each_kind_of_change_is_its_formula():
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    value, low, other = torch.full((6, 4), 0.5), low_rank(weight), low_rank(weight, seed=2)
    product = 4.0 / 2 * (low.up @ low.down)
    rows = TokenRows((1, 6), torch.ones(2, 4))
    grown = torch.cat([weight, torch.ones(1, 4)])
    grown[1] = 1
    cases = [
        ([(Replaced(value), 1.0)], value),
        ([(Added(value), 0.8)], weight + 0.8 * value),
        ([(low, 0.8)], weight + 0.8 * product),
        ([(low, 1.0), (other, 0.5)], weight + product + 0.5 * 4.0 / 2 * other.up @ other.down),
        ([(low, 1.0), (Replaced(value), 1.0)], value + product),
        ([(rows, 1.0)], grown),
    ]
    for changes, wanted in cases:
        torch.testing.assert_close(changed(weight, changes), wanted)
        torch.testing.assert_close(changed(weight, changes[::-1]), wanted)


def test_a_low_rank_change_of_a_convolution():
    weight, low = torch.zeros(6, 4, 1, 1), low_rank(torch.zeros(6, 4))
    as_convolutions = LowRank(low.up[..., None, None], low.down[..., None, None], 4.0)
    for one in (low, as_convolutions):
        assert one.fits((6, 4, 1, 1)) and not one.fits((6, 4, 3, 3)) and not one.fits((4, 6, 1, 1))
        torch.testing.assert_close(changed(weight, [(one, 1.0)])[..., 0, 0], 2.0 * low.up @ low.down)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_changes_are_reckoned_in_float32_or_wider_and_rounded_once(dtype):
    weight, low = torch.randn(6, 4).to(dtype), low_rank(torch.zeros(6, 4))
    several = [(low, 0.1)] * 3
    wide = torch.promote_types(dtype, torch.float32)
    wanted = weight.to(wide)
    for _ in range(3):
        wanted = wanted + (low.up.to(wide) @ low.down.to(wide)) * (0.1 * 4.0 / 2)
    found = changed(weight, several)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted.to(dtype), rtol=0, atol=1e-5 if dtype == torch.float64 else 1e-2)


# Into a model


@pytest.mark.parametrize("networks", [("unet", "text"), ("unet",)])
def test_a_new_model_has_what_was_learnt_and_shares_the_rest(model, tmp_path, networks):
    learnt, before = complete(model, networks), fingerprint(model)
    save_concept(learnt, tmp_path / "concept.safetensors")
    applied = apply_concept(model, tmp_path / "concept.safetensors")
    base = parameters(model)
    for name, tensor in parameters(applied).items():
        if name.split(".")[0] in networks:
            assert torch.equal(tensor, base[name] + 0.01)
        else:
            assert tensor.data_ptr() == base[name].data_ptr()
    assert fingerprint(model) == before != fingerprint(applied)


def test_only_what_a_concept_names_is_new(model):
    name = linear_of(model)
    applied = apply_concept(model, concept(model, {name: Replaced(parameters(model)[name] * 2)}))
    base, found = parameters(model), parameters(applied)
    assert {k for k in base if found[k].data_ptr() != base[k].data_ptr()} == {name}
    assert torch.equal(found[name], base[name] * 2)


def test_the_concept_and_the_base_stay_as_they_were(model):
    learnt, base = complete(model), copy.deepcopy(parameters(model))
    values = {name: tensor.clone() for name, tensor in learnt.tensors.items()}
    applied = apply_concept(model, learnt)
    with torch.no_grad():
        for tensor in applied.unet.parameters():
            tensor.add_(1)
    assert learnt.tensors.keys() == values.keys()
    assert all(torch.equal(learnt.tensors[name], values[name]) for name in values)
    assert all(torch.equal(tensor, base[name]) for name, tensor in parameters(model).items())


def live_bytes() -> int:
    """What all tensors together hold, each memory counted once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def test_in_place_memory_does_not_double_and_the_concept_is_let_go(tmp_path, monkeypatch):
    """Base, concept and one parameter at the most; the base alone afterwards, the concept emptied."""
    model = load(write_tiny_model(tmp_path / "tiny.safetensors"), dtype=torch.bfloat16)
    names = [n for n in parameters(model) if "attn2" in n][:8]
    base = sum(p.nbytes for p in parameters(model).values())
    learnt = concept(model, {n: Replaced(torch.randn(parameters(model)[n].shape)) for n in names})
    extra = sum(change.values.nbytes for change in learnt.changes.values())
    largest = max(change.values.nbytes for change in learnt.changes.values())
    wanted = {name: change.values.bfloat16() for name, change in learnt.changes.items()}
    other, seen = live_bytes() - base - extra, []

    def watching(weight, changes):
        result = changed(weight, changes)
        seen.append(live_bytes() - other)
        return result

    monkeypatch.setattr(train.concepts.apply, "changed", watching)
    apply_in_place(model, learnt)
    assert len(seen) == len(names) and max(seen) <= base + extra + largest
    assert seen[-1] <= base + 2 * largest  # the changes made before have been let go one by one
    assert not learnt.changes and learnt.subject == "sks cat"
    assert live_bytes() - other <= base + 1024
    assert all(torch.equal(parameters(model)[name], tensor) for name, tensor in wanted.items())
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_in_place_is_the_same_as_anew_and_the_dtype_stays(tmp_path, dtype):
    base = load(write_tiny_model(tmp_path / "tiny.safetensors"), dtype=dtype)
    save_concept(complete(base), tmp_path / "concept.safetensors")
    anew = apply_concept(base, tmp_path / "concept.safetensors")
    apply_in_place(base, tmp_path / "concept.safetensors")
    assert all(torch.equal(tensor, parameters(base)[name]) for name, tensor in parameters(anew).items())
    assert {t.dtype for t in parameters(base).values()} == {dtype}
    assert fingerprint(base) == fingerprint(anew)


def test_a_concept_learnt_in_float32_goes_on_the_base_in_any_dtype(model, tmp_path):
    path = write_tiny_model(tmp_path / "tiny.safetensors")
    names = {fingerprint(apply_concept(load(path, dtype=d), complete(model))) for d in (torch.float16, torch.bfloat16)}
    assert names == {fingerprint(apply_concept(model, complete(model)))}


# Several


def test_low_rank_changes_add_up_each_with_its_scale(model):
    name = linear_of(model)
    weight = parameters(model)[name]
    one, two = low_rank(weight, seed=1), low_rank(weight, rank=3, alpha=1.0, seed=2)
    several = [concept(model, {name: one}), concept(model, {name: two}, token="zwx")]
    applied = parameters(apply_concept(model, *several, scales=(0.8, -0.5)))[name]
    wanted = weight + 0.8 * 2 * one.up @ one.down - 0.5 / 3 * two.up @ two.down
    torch.testing.assert_close(applied, wanted)
    names = {fingerprint(apply_concept(model, *several, scales=scales)) for scales in ((0.8, -0.5), (1, 1), (1, -0.5))}
    assert len(names) == 3


def test_two_that_replace_the_same_parameter_are_refused_by_name(model):
    name, before = linear_of(model), fingerprint(model)
    one, two = (concept(model, {name: Replaced(parameters(model)[name] + i)}, token=t) for i, t in enumerate("ab"))
    with pytest.raises(ValueError, match=r"'a cat' and 'b cat' both replace .*attn2\.to_k\.weight"):
        apply_in_place(model, one, two)
    assert fingerprint(model) == before and one.changes


def test_one_that_replaces_and_one_that_adds_go_together(model):
    name = linear_of(model)
    weight = parameters(model)[name]
    low, values = low_rank(weight), weight * 3
    both = concept(model, {name: low}), concept(model, {name: Replaced(values)}, token="zwx")
    torch.testing.assert_close(parameters(apply_concept(model, *both))[name], values + 2 * low.up @ low.down)


def test_words_stand_side_by_side(model):
    """One has a token of its own in the vocabulary; the others are new, one of them of two vectors."""
    width = model.config.text.width
    rows = {"sks": torch.full((1, width), 1.0), "<new1>": torch.full((1, width), 2.0), "<New2>": torch.randn(2, width)}
    several = [concept(model, words={word: values}, token=word) for word, values in rows.items()]
    applied = apply_concept(model, *several)
    size, base = model.config.text.vocabulary, parameters(model)[EMBEDDING]
    embedding = parameters(applied)[EMBEDDING]
    (sks, _), *_ = model.tokenizer.words("sks")
    assert torch.equal(embedding[sks], rows["sks"][0])
    assert torch.equal(embedding[size:], torch.cat([rows["<new1>"], rows["<New2>"]]))
    rest = torch.arange(size) != sks
    assert torch.equal(embedding[:size][rest], base[rest]) and len(base) == size
    row = applied.tokenizer("a <NEW1> cat, <new2>.")[0].tolist()
    a, cat, comma, dot = (model.tokenizer(word)[0, 1].item() for word in ("a", "cat", ",", "."))
    assert row[1:9] == [a, size, cat, comma, size + 1, size + 2, dot, row[8]]
    assert size not in model.tokenizer("a <new1> cat")[0]
    assert applied.encode_text("a <new1> cat").isfinite().all()
    assert applied.config.text.vocabulary == size + 3
    with pytest.raises(ValueError, match="two concepts mean something by 'sks'"):
        apply_concept(model, several[0], several[0])


# What is refused


def test_another_base_is_refused(model):
    with pytest.raises(ValueError, match=r"'sks cat' was learnt on tiny .* load the base it was learnt on"):
        apply_concept(tiny_model(seed=1), complete(model))
    with pytest.raises(ValueError, match=r"has a concept in it already .several are put onto their base together"):
        apply_concept(apply_concept(model, complete(model)), complete(model))


def test_unknown_and_misshapen_parameters_are_named_and_nothing_changes(model):
    before = fingerprint(model)
    for changes, complaint in [
        ({"unet.extra": Replaced(torch.zeros(3))}, r"1 parameters are unknown here: 'unet\.extra'"),
        ({"text.final_norm.bias": Replaced(torch.zeros(3))}, r"another shape here: 'text\.final_norm\.bias'"),
        ({linear_of(model): low_rank(torch.zeros(3, 3))}, "another shape here"),
    ]:
        learnt = complete(model, ("text",))
        learnt.changes.update(changes)
        with pytest.raises(ValueError, match=complaint):
            apply_in_place(model, learnt)
        assert fingerprint(model) == before
    with pytest.raises(ValueError, match=r"another shape here: 'text\.token_embedding\.weight'"):
        apply_concept(model, concept(model, words={"<new1>": torch.zeros(1, 3)}))


def test_scales_that_make_no_sense_are_refused(model):
    low = concept(model, {linear_of(model): low_rank(parameters(model)[linear_of(model)])})
    for scale in (float("nan"), float("inf"), 1e9):
        with pytest.raises(ValueError, match="the scale of 'sks cat' is"):
            apply_concept(model, low, scales=[scale])
    with pytest.raises(ValueError, match="2 scales for 1 concepts"):
        apply_concept(model, low, scales=[1, 1])
    with pytest.raises(ValueError, match="leave the scale out"):
        apply_concept(model, complete(model), scales=[0.8])


# Its file


def mixed(model) -> Concept:
    """Every kind of change that a file can hold."""
    keys = [name for name in parameters(model) if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    base = parameters(model)
    changes = {
        "unet.conv_in.bias": Replaced(base["unet.conv_in.bias"] + 1),
        keys[0]: Added(torch.ones_like(base[keys[0]])),
        keys[1]: low_rank(base[keys[1]], alpha=3.0),
    }
    return concept(model, changes, {f"<new{n}>": torch.ones(n, model.config.text.width) for n in (1, 2)})


def test_every_kind_of_change_goes_there_and_back(model, tmp_path):
    learnt = mixed(model)
    save_concept(learnt, tmp_path / "concept.safetensors")
    loaded = load_concept(tmp_path / "concept.safetensors")
    assert loaded.about == learnt.about and loaded.subject == "sks cat"
    assert loaded.tensors.keys() == learnt.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in learnt.tensors.items())
    assert [type(change) for change in loaded.changes.values()].count(LowRank) == 1
    assert fingerprint(apply_concept(model, loaded)) == fingerprint(apply_concept(model, learnt))


def test_float32_keeps_every_bit_and_float16_rounds(model, tmp_path):
    learnt = complete(model)
    save_concept(learnt, tmp_path / "wide.safetensors")
    save_concept(learnt, tmp_path / "half.safetensors", torch.float16)
    wide, half = (load_concept(tmp_path / f"{name}.safetensors").tensors for name in ("wide", "half"))
    for name, tensor in learnt.tensors.items():
        assert torch.equal(wide[name], tensor) and torch.equal(half[name], tensor.half())
    with pytest.raises(ValueError, match="float32 or float16"):
        save_concept(learnt, tmp_path / "brain.safetensors", torch.bfloat16)


def test_the_same_concept_is_the_same_bytes(model, tmp_path):
    for name in ("one", "two"):
        save_concept(mixed(model), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_of_the_first_version_is_read(model, tmp_path):
    """Whole networks under their plain names, no version, and the fingerprint of that time."""
    learnt = complete(model)
    about = {**vars(learnt.about), "base": fingerprint_v1(model), "kind": "concept"}
    save_file(learnt.tensors, tmp_path / "old.safetensors", {"photoswap": json.dumps(about)})
    applied = apply_concept(model, tmp_path / "old.safetensors")
    assert all(torch.equal(parameters(applied)[name], tensor) for name, tensor in learnt.tensors.items())
    with pytest.raises(ValueError, match="learnt on"):
        apply_concept(tiny_model(seed=1), tmp_path / "old.safetensors")


def test_files_that_are_no_concept_are_refused_with_a_sentence(model, tmp_path):
    save_concept(complete(model), tmp_path / "sound")
    (tmp_path / "cut").write_bytes((tmp_path / "sound").read_bytes()[:-100])
    (tmp_path / "text").write_text("a photo of a cat")
    (tmp_path / "empty").touch()
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    tensors, about = contents(tmp_path / "sound")
    put(tmp_path / "checkpoint", tensors, json.dumps({**about, "kind": "learning checkpoint"}))
    complaints = {
        "cut": "truncated",
        "text": "truncated",
        "empty": "truncated",
        "foreign": "does not fit this model",
        "checkpoint": "another kind",
        "absent": "no file",
    }
    for name, complaint in complaints.items():
        with pytest.raises(ValueError, match=complaint):
            apply_concept(model, tmp_path / name)


@pytest.fixture
def small(tmp_path):
    """A concept for no network, small enough to be spoilt in every way."""
    up, down = torch.randn(3, 2), torch.randn(2, 4)
    changes = {"unet.a": Replaced(torch.randn(3)), "unet.b": LowRank(up, down, 1.0), "text.c": Added(torch.randn(2))}
    about = ("2-0123456789abcdef", "tiny", "sks", "cat", "a photo of a sks cat", "a photo of a cat", {"seed": 0})
    save_concept(Concept(*about, changes, {"<new1>": torch.randn(1, 4)}), tmp_path / "small")
    return tmp_path / "small"


def test_no_spoilt_concept_is_a_traceback(small, model, tmp_path):
    tensors, about = contents(small)
    spoilt = tmp_path / "spoilt"

    def refused(what):
        with pytest.raises(ValueError) as caught:
            apply_concept(model, spoilt)
        told = str(caught.value)
        assert "\n" not in told and len(told) < 900, (what, told)

    for what, text in spoiled_texts(about):
        put(spoilt, tensors, text)
        refused(what)
    for what, ill in spoiled_tensors(tensors):
        put(spoilt, ill, json.dumps(about))
        refused(what)
    for what, content in spoiled_bytes(small.read_bytes(), torch.Generator().manual_seed(0), 50):
        spoilt.write_bytes(content)
        refused(what)


@pytest.mark.parametrize(
    ("name", "spoil", "complaint"),
    [
        ("unet.a", lambda t: t * float("nan"), "'unet.a' holds NaN"),
        ("unet.a", lambda t: t.to(torch.int8), "'unet.a' is"),
        ("unet.a", lambda t: t.to(torch.float8_e4m3fn), "'unet.a' is"),
        ("unet.b/up", lambda t: t[:, :1].clone(), "unet.b has up"),
        ("unet.b/alpha", lambda t: t * 1e9, "runs from"),
        ("word/<new1>", lambda t: t[0].clone(), r"has rows \(4,\)"),
    ],
)
def test_what_is_damaged_is_named(small, tmp_path, name, spoil, complaint):
    tensors, about = contents(small)
    put(tmp_path / "spoilt", {**tensors, name: spoil(tensors[name])}, json.dumps(about))
    with pytest.raises(ValueError, match=complaint):
        load_concept(tmp_path / "spoilt")


def test_what_cannot_be_read_is_not_written(model, tmp_path):
    for changes, words in [
        ({}, {}),
        ({"unet.a": Replaced(torch.tensor([float("nan")]))}, {}),
        ({"unet.a": TokenRows((0,), torch.ones(1, 2))}, {}),
        ({}, {"two words": torch.ones(1, 2)}),
    ]:
        with pytest.raises(ValueError):
            save_concept(concept(model, changes, words), tmp_path / "concept.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch):
    path = tmp_path / "concept.safetensors"
    save_concept(complete(model), path)
    before = path.read_bytes()

    def fail(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("weights.records.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_concept(complete(model, shift=0.5), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
