"""Converting between the two published layouts: bit for bit, and with what other tools read beside the weights."""

import errno
import json
import os
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from golden_model import FOLDER, LAYOUTS, golden_config
from open_clip.tokenizer import SimpleTokenizer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_names import FILES, shapes
from tiny import MODEL
from tiny_model import tiny_config, tiny_model, write_tiny_model

from models.config import MODELS, SD15, SD21, SD21_BASE
from samplers import Schedule
from train.concepts import Concept, Replaced, apply_concept, replaced
from weights import fingerprint
from weights.convert import convert
from weights.files import HF_FILES
from weights.folder import NOTE, save_folder, scheduler_config, texts, to_folder, unet_config
from weights.load import load, meta_model, networks_of, save, to_ldm
from weights.names import NETWORKS, not_needed

SD1 = replace(
    tiny_config(),
    name="tiny-sd1",
    unet=replace(MODEL.unet, attention_levels=(0, 1, 2), head_channels=None, heads=4, linear_projection=False),
    text=replace(MODEL.text, stored_layers=2, activation="quick_gelu", padding="eot"),
)
CONFIGS = {"sd2": tiny_config(), "sd1": SD1}


def parameters(model):
    return {f"{part}.{key}": t for part, net in networks_of(model).items() for key, t in net.state_dict().items()}


def assert_same(a, b):
    left, right = parameters(a), parameters(b)
    assert left.keys() == right.keys()
    assert all(left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left)


def same_tensors(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def folder_state(folder):
    return {
        part: load_file(folder / home / f"{stem}.safetensors")
        for part, (home, stem) in ((part, HF_FILES[part]) for part in NETWORKS)
    }


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


# The round trip


@pytest.mark.parametrize("kind", CONFIGS)
def test_single_file_to_folder_and_back_is_bit_exact(tmp_path, kind):
    save(replace(tiny_model(), config=CONFIGS[kind]), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "folder", "folder")
    convert(tmp_path / "folder", tmp_path / "b.safetensors", "ldm")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    convert(tmp_path / "b.safetensors", tmp_path / "again", "folder")
    written = {path.relative_to(tmp_path / "folder") for path in (tmp_path / "folder").rglob("*") if path.is_file()}
    assert len(written) == 13
    for path in written:
        assert (tmp_path / "folder" / path).read_bytes() == (tmp_path / "again" / path).read_bytes()


def test_the_golden_single_file_becomes_the_golden_folder(tmp_path):
    """Two libraries' names for one model; the folder has the autoencoder's attention under its names of 2022."""
    convert(LAYOUTS["ldm"], tmp_path / "folder", "folder", config=golden_config())
    written, published = folder_state(tmp_path / "folder"), folder_state(LAYOUTS["diffusers"])
    del published["text"]["text_model.embeddings.position_ids"]  # 0, 1, 2 and so on
    published["vae"] = {renamed(key): tensor for key, tensor in published["vae"].items()}
    assert all(same_tensors(written[part], published[part]) for part in published)


def test_the_golden_folder_becomes_the_golden_single_file(tmp_path):
    config = golden_config()
    few = replace(config, text=replace(config.text, stored_layers=config.text.layers))
    convert(LAYOUTS["diffusers"], tmp_path / "a.safetensors", "ldm", config=few)
    published = load_file(LAYOUTS["ldm"])
    kept = {key: tensor for key, tensor in published.items() if not not_needed(key, config, "ldm")}
    assert same_tensors(load_file(tmp_path / "a.safetensors"), kept)


def renamed(key):
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    head, _, tail = key.rpartition(".")
    stem, _, last = head.rpartition(".")
    return f"{stem}.{new[last]}.{tail}" if ".attentions." in key and last in new else key


@pytest.mark.parametrize("name", [name for name, (_, part) in FILES.items() if part and "2022" not in name])
def test_folders_have_the_published_keys_and_shapes(name):
    config, part = FILES[name]
    written = {key: list(tensor.shape) for key, tensor in to_folder(meta_model(config))[part].items()}
    assert written == {key: shape for key, shape in shapes(name).items() if not not_needed(key, config, "hf", part)}


def test_from_single_file_to_single_file_nothing_is_lost_but_averages(tmp_path):
    more = {
        "betas": torch.linspace(0, 1, 1000),
        "cond_stage_model.model.text_projection": torch.randn(24, 24),
        "cond_stage_model.model.transformer.resblocks.2.ln_1.weight": torch.randn(24),
        "model_ema.decay": torch.ones(()),
    }
    state = load_file(write_tiny_model(tmp_path / "a.safetensors")) | more
    save_file(state, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "ldm", config=tiny_config())
    del state["model_ema.decay"]
    assert same_tensors(load_file(tmp_path / "b.safetensors"), state)
    convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", "ldm", torch.float16, config=tiny_config())
    halves = {key: tensor.dtype for key, tensor in load_file(tmp_path / "c.safetensors").items()}
    assert halves.pop("betas") == torch.float32 and set(halves.values()) == {torch.float16}


def test_a_pickled_checkpoint_becomes_a_safetensors_file(tmp_path, tiny_file):
    torch.save({"state_dict": load_file(tiny_file)}, tmp_path / "model.ckpt")
    convert(tmp_path / "model.ckpt", tmp_path / "model.safetensors", "ldm", config=tiny_config())
    assert (tmp_path / "model.safetensors").read_bytes() == tiny_file.read_bytes()


# Dtypes


@pytest.mark.parametrize("layout", ["ldm", "folder"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("wanted", [None, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(tmp_path, stored, wanted, layout):
    target = tmp_path / ("out.safetensors" if layout == "ldm" else "out")
    save_folder(tiny_model(), tmp_path / "in", stored)
    convert(tmp_path / "in", target, layout, wanted)
    rounded = tiny_model()
    for network in networks_of(rounded).values():
        network.to(stored).to(wanted or stored)
    assert_same(load(target, dtype="stored"), rounded)
    assert {t.dtype for t in parameters(load(target, dtype=torch.float64)).values()} == {torch.float64}


def test_parameters_of_different_dtypes_keep_them(tmp_path, tiny_file):
    state = {k: t.half() if k.startswith("model.") else t for k, t in load_file(tiny_file).items()}
    save_file(state, tmp_path / "mixed.safetensors")
    convert(tmp_path / "mixed.safetensors", tmp_path / "folder", "folder", config=tiny_config())
    convert(tmp_path / "folder", tmp_path / "again.safetensors", "ldm")
    assert same_tensors(load_file(tmp_path / "again.safetensors"), state)


# A concept merged into a full checkpoint


def learnt(base):
    """A concept of the U-Net and the text encoder, a little beside the base."""
    tensors = {k: t + 0.01 * torch.ones_like(t) for k, t in parameters(base).items() if not k.startswith("vae.")}
    return Concept(
        fingerprint(base), "tiny", "sks", "cat", "a photo of a sks cat", "a photo of a cat", {}, replaced(tensors)
    )


def concept_applied(concept):
    return lambda model: apply_concept(model, concept)


@pytest.mark.parametrize("layout", ["ldm", "folder"])
def test_a_concept_is_merged(tmp_path, tiny_file, layout):
    base, target = load(tiny_file), tmp_path / ("out.safetensors" if layout == "ldm" else "out")
    concept = learnt(base)
    convert(tiny_file, target, layout, change=concept_applied(concept))
    assert_same(load(target), apply_concept(base, concept))
    assert not torch.equal(load(target).unet.conv_in.weight, base.unet.conv_in.weight)


@pytest.mark.parametrize("layout", ["ldm", "folder"])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_concept_keeps_its_bits_in_a_half_precision_checkpoint(tmp_path, tiny_file, stored, layout):
    """What it changed is written in float32, what it left alone as it was; rounded only where that is asked for."""
    convert(tiny_file, tmp_path / "half.safetensors", "ldm", stored)
    base = load(tmp_path / "half.safetensors")
    concept, kept = learnt(base), parameters(load(tmp_path / "half.safetensors", dtype="stored"))
    changed = "unet.conv_in.weight"
    concept.changes["unet.conv_out.bias"] = Replaced(kept["unet.conv_out.bias"].float())  # learnt, and as it was before
    for dtype in (None, torch.float32, torch.float16, torch.bfloat16):
        target = tmp_path / f"{dtype}{'.safetensors' if layout == 'ldm' else ''}".replace("torch.", "")
        convert(tmp_path / "half.safetensors", target, layout, dtype, change=concept_applied(concept))
        found = parameters(load(target, dtype="stored"))
        exact = concept.tensors[changed]
        assert torch.equal(found[changed], exact.to(dtype or torch.float32))
        if dtype is None:
            assert_same(load(target), apply_concept(base, concept))
            left = [name for name in kept if name.startswith("vae.") or name == "unet.conv_out.bias"]
            assert {found[name].dtype for name in left} == {stored}
            assert all(torch.equal(found[name], kept[name]) for name in left)


def test_a_change_of_a_float32_checkpoint_leaves_it_in_float32(tmp_path, tiny_file):
    base = load(tiny_file)
    convert(tiny_file, tmp_path / "out.safetensors", "ldm", change=concept_applied(learnt(base)))
    assert {tensor.dtype for tensor in load_file(tmp_path / "out.safetensors").values()} == {torch.float32}
    assert_same(load(tiny_file), base)


# What other tools read beside the weights


def golden_json(name):
    return json.loads((FOLDER / "diffusers_layout" / name).read_text())


def written_json(config, name):
    return json.loads(texts(config)[name])


OURS_ALONE = {  # that the golden files do not have, or have otherwise, and why
    "unet/config.json": {"_class_name"},
    "vae/config.json": {"_class_name", "sample_size"},  # no weights depend on the size of pictures
    "text_encoder/config.json": {"architectures", "pad_token_id"},  # 0 in SD 2.x, which is what the pipeline pads with
    "scheduler/scheduler_config.json": {"_class_name", "timestep_spacing"},  # leading is what is left out there
}


@pytest.mark.parametrize("name", OURS_ALONE)
def test_numbers_are_those_that_another_library_wrote(name):
    written, published = written_json(golden_config(), name), golden_json(name)
    different = {key for key, value in written.items() if key not in published or published[key] != value}
    assert different <= OURS_ALONE[name]


def test_the_numbers_of_the_published_models():
    """As far as they differ from one another."""
    assert written_json(SD21, "scheduler/scheduler_config.json")["prediction_type"] == "v_prediction"
    assert written_json(SD21_BASE, "scheduler/scheduler_config.json")["prediction_type"] == "epsilon"
    wanted = {
        "sd21": ([5, 10, 20, 20], 1024, 96, True, True),
        "sd21-base": ([5, 10, 20, 20], 1024, 64, True, False),
        "sd15": (8, 768, 64, False, False),
    }
    names = ("attention_head_dim", "cross_attention_dim", "sample_size", "use_linear_projection", "upcast_attention")
    for model, values in wanted.items():
        assert tuple(unet_config(MODELS[model])[name] for name in names) == values
    two, one = (written_json(config, "text_encoder/config.json") for config in (SD21, SD15))
    assert (two["num_hidden_layers"], two["hidden_act"], two["hidden_size"]) == (23, "gelu", 1024)
    assert (one["num_hidden_layers"], one["hidden_act"], one["hidden_size"]) == (12, "quick_gelu", 768)
    assert written_json(SD21, "tokenizer/tokenizer_config.json")["pad_token"] == "!"
    assert written_json(SD15, "tokenizer/tokenizer_config.json")["pad_token"] == "<|endoftext|>"


def test_a_folder_tells_other_tools_the_whole_schedule():
    noise = Schedule(beta_schedule="linear", spacing="trailing", rescale_zero_snr=True, set_alpha_to_one=True)
    told = scheduler_config(replace(SD21, noise=noise))
    assert told["beta_schedule"] == "linear" and told["timestep_spacing"] == "trailing"
    assert told["rescale_betas_zero_snr"] is told["set_alpha_to_one"] is True


def test_every_part_that_the_index_names_is_there(tmp_path):
    save_folder(tiny_model(), tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    parts = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    assert parts == {path.name for path in (tmp_path / "model").iterdir() if path.is_dir()}
    for home, stem in map(HF_FILES.__getitem__, NETWORKS):
        with safe_open(tmp_path / "model" / home / f"{stem}.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt"}  # which other tools insist on
    assert load(tmp_path / "model").config == tiny_config()


def test_the_vocabulary_is_the_one_we_tokenize_with():
    """Merging the pairs in order of rank, as the readers of these two files do, gives open_clip's ids."""
    written = texts(SD21)
    ids = json.loads(written["tokenizer/vocab.json"])
    assert len(ids) == SD21.text.vocabulary and sorted(ids.values()) == list(range(SD21.text.vocabulary))
    assert ids["<|startoftext|>"] == 49406 and ids["<|endoftext|>"] == 49407 and ids["!"] == 0
    head, *merges = written["tokenizer/merges.txt"].splitlines()
    assert head.startswith("#version") and len(merges) == 49152 - 256 - 2
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
    for word in ("photo", "photoswap", "a", "sks", "meadow", "zz9"):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while pairs := [pair for pair in pairwise(pieces) if pair in ranks]:
            best = min(pairs, key=ranks.__getitem__)
            at = next(i for i in range(len(pieces)) if tuple(pieces[i : i + 2]) == best)
            pieces[at : at + 2] = ["".join(best)]
        if word != "zz9":  # digits are words of their own
            assert [ids[piece] for piece in pieces] == SimpleTokenizer().encode(word)


@pytest.mark.filterwarnings("ignore:.*predicts:UserWarning")
def test_a_folder_goes_by_its_scheduler(tmp_path, monkeypatch):
    twin = replace(tiny_config(), name="twin", noise=replace(tiny_config().noise, prediction="eps"))
    monkeypatch.setitem(MODELS, "tiny", tiny_config())
    monkeypatch.setitem(MODELS, "twin", twin)
    save_folder(tiny_model(), tmp_path / "model")
    assert load(tmp_path / "model").config == tiny_config()
    (tmp_path / "model" / NOTE).unlink()
    scheduler = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    told = json.loads(scheduler.read_text())
    for kind, prediction in (("epsilon", "eps"), ("v_prediction", "v")):
        scheduler.write_text(json.dumps(told | {"prediction_type": kind}))
        assert load(tmp_path / "model").schedule.prediction == prediction
    scheduler.write_text(json.dumps(told | {"prediction_type": "sample"}))
    with pytest.raises(ValueError, match="prediction_type is 'sample'; want one of epsilon, v_prediction"):
        load(tmp_path / "model")
    scheduler.write_text("{")
    with pytest.raises(ValueError, match=r"scheduler_config\.json is damaged"):
        load(tmp_path / "model")


# Refusing


def test_names_that_do_not_suit_the_layout(tmp_path, tiny_file):
    with pytest.raises(ValueError, match=r"no name for a single file: want one that ends in \.safetensors"):
        convert(tiny_file, tmp_path / "out", "ldm")
    with pytest.raises(ValueError, match=r"no name for a folder: want one without \.safetensors"):
        convert(tiny_file, tmp_path / "out.safetensors", "folder")


def test_a_folder_that_is_there_is_not_written_into(tmp_path, tiny_file):
    (tmp_path / "out").mkdir()
    convert(tiny_file, tmp_path / "out", "folder")  # empty, it may be
    with pytest.raises(ValueError, match="is there already; name a new folder"):
        convert(tiny_file, tmp_path / "out", "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_too_little_room_is_said_before(tmp_path, tiny_file, monkeypatch):
    size = sum(tensor.nbytes for tensor in to_ldm(load(tiny_file)).values())
    usage = type("Usage", (), {"free": size - 1})
    monkeypatch.setattr("weights.atomic.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="make room"):
        convert(tiny_file, tmp_path / "out", "folder")
    convert(tiny_file, tmp_path / "out", "folder", torch.float16)


def test_a_full_disk_leaves_nothing(tmp_path, tiny_file, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("weights.folder.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        convert(tiny_file, tmp_path / "out", "folder")
    assert list(tmp_path.iterdir()) == []
