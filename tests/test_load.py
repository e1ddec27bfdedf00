"""Loading and saving whole checkpoints: what is filled, from where, and what is refused."""

import errno
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_model import LAYOUTS, golden_config, golden_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tiny_model import tiny_config, tiny_model, write_tiny_model

from models.config import MINIATURE
from weights.atomic import atomic
from weights.load import CONFIG_KEY, load, networks_of, save, to_ldm
from weights.names import not_needed
from weights.published import MINIATURE_FILE, PUBLISHED, VARIABLE


def parameters(model):
    return {f"{part}.{key}": t for part, net in networks_of(model).items() for key, t in net.state_dict().items()}


def assert_same(a, b):
    left, right = parameters(a), parameters(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


def test_both_layouts_load_to_bitwise_equal_networks(device):
    assert_same(golden_model("ldm", device), golden_model("diffusers", device))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_drawn_and_nothing_is_left_empty(layout):
    before = torch.get_rng_state()
    model = golden_model(layout, torch.device("cpu"))
    assert torch.equal(before, torch.get_rng_state())
    assert not any(t.is_meta for net in networks_of(model).values() for t in (*net.parameters(), *net.buffers()))
    assert not any(net.training for net in networks_of(model).values())
    assert all(p.requires_grad for net in networks_of(model).values() for p in net.parameters())


def test_parameters_of_the_stored_dtype_are_the_file_itself():
    """No copy: in memory they lie as far apart as in the file, and writing to them leaves the file alone."""
    model = golden_model("ldm", torch.device("cpu"), torch.float16)
    before = LAYOUTS["ldm"].read_bytes()
    header = json.loads(before[8 : 8 + int.from_bytes(before[:8], "little")])
    tensors = {key: tensor for key, tensor in to_ldm(model).items() if ".in_proj_" not in key}
    assert len({tensor.data_ptr() - header[key]["data_offsets"][0] for key, tensor in tensors.items()}) == 1
    with torch.no_grad():
        model.unet.conv_in.weight.zero_()
    assert LAYOUTS["ldm"].read_bytes() == before


def test_what_is_converted_lets_go_of_the_file_piece_by_piece(tiny_file, monkeypatch):
    """Openings of the file: one for what stays as it is; one more for every piece that is converted."""
    opened = []
    monkeypatch.setattr(
        "weights.files.safe_open", lambda *args, **kwargs: opened.append(args) or safe_open(*args, **kwargs)
    )
    monkeypatch.setattr("weights.files.PIECE", 2**20)
    kept = load(tiny_file, dtype=torch.float32)
    assert len(opened) == 1
    converted = load(tiny_file, dtype=torch.float64)
    assert len(opened) - 1 >= 3  # 6.4 MB, of which the token embedding is one tensor of 4.7
    for key, tensor in parameters(converted).items():
        assert torch.equal(tensor, parameters(kept)[key].double())
    if Path("/proc/self/maps").exists():
        del kept
        assert str(tiny_file) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_loads_to_any_dtype(dtype, device):
    model = golden_model("ldm", device, dtype)
    stored = golden_model("ldm", torch.device("cpu"), torch.float16)
    assert {t.dtype for t in parameters(model).values()} == {dtype}
    assert torch.equal(model.unet.conv_in.weight.cpu(), stored.unet.conv_in.weight.to(dtype))
    assert model.device.type == device.type and model.dtype == dtype


@pytest.fixture
def mixed_file(tmp_path, tiny_file):
    """The U-Net in float16, as it is often published, the rest in float32."""
    state = {k: t.half() if k.startswith("model.") else t for k, t in load_file(tiny_file).items()}
    state["betas"] = torch.zeros(3, dtype=torch.float64)  # not needed: its dtype is nobody's
    save_file(state, tmp_path / "mixed.safetensors")
    return tmp_path / "mixed.safetensors"


def test_loads_as_stored_when_asked_to(mixed_file):
    model = load(mixed_file, dtype="stored", config=tiny_config())
    assert {t.dtype for t in model.unet.state_dict().values()} == {torch.float16}
    assert {t.dtype for t in model.vae.state_dict().values()} == {torch.float32}


@torch.no_grad()
def test_a_checkpoint_of_several_dtypes_runs_in_the_widest(tmp_path, mixed_file):
    model = load(mixed_file, dtype=None, config=tiny_config())
    assert {t.dtype for t in parameters(model).values()} == {torch.float32}
    assert torch.equal(
        model.unet.conv_in.weight, load(mixed_file, dtype="stored", config=tiny_config()).unet.conv_in.weight
    )
    out = model.unet(torch.zeros(1, 4, 8, 8), 10, model.encode_text("a cat"))
    assert model.decode(out).isfinite().all()
    state = load_file(mixed_file)
    for kept, other in (
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
    ):  # float16 and bfloat16: float32
        half = {k: t.to(kept if k.startswith("model.") else torch.float16) for k, t in state.items() if k != "betas"}
        save_file(half, tmp_path / "half.safetensors")
        model = load(tmp_path / "half.safetensors", dtype=None, config=tiny_config())
        assert {t.dtype for t in parameters(model).values()} == {other}


def test_schedule_and_tokenizer_are_those_of_the_config(tiny_file):
    model = load(tiny_file)
    assert model.schedule.prediction == "v" and model.schedule.offset == 1
    assert model.tokenizer.padding == "zero" and model.tokenizer.length == 77


def test_golden_round_trip_is_bit_exact(tmp_path):
    """Single file to our networks and back: every tensor that a network of ours holds, bit for bit."""
    save(golden_model("ldm", torch.device("cpu"), torch.float16), tmp_path / "again.safetensors")
    published, written = load_file(LAYOUTS["ldm"]), load_file(tmp_path / "again.safetensors")
    kept = {key for key in published if not not_needed(key, golden_config(), "ldm")}
    assert set(written) == kept
    assert all(written[key].dtype == torch.float16 and torch.equal(written[key], published[key]) for key in kept)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_what_is_saved_loads_without_being_told_what_it_is(tmp_path, dtype):
    model = tiny_model()
    save(model, tmp_path / "model.safetensors", dtype)
    again = load(tmp_path / "model.safetensors")
    assert again.config == tiny_config()
    for network in networks_of(model).values():
        network.to(dtype or torch.float32).to(torch.float32)
    assert_same(again, model)


def test_equal_models_give_equal_files(tmp_path, tiny_file):
    assert write_tiny_model(tmp_path / "b.safetensors").read_bytes() == tiny_file.read_bytes()


def test_a_model_may_replace_the_file_it_was_read_from(tmp_path):
    path = write_tiny_model(tmp_path / "model.safetensors")
    before = path.read_bytes()
    save(load(path), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_convolution_projections_survive_the_round_trip(tmp_path):
    """SD 1.x enters and leaves its transformers through 1x1 convolutions, which are Linear here."""
    config = tiny_config()
    sd1 = replace(config, unet=replace(config.unet, linear_projection=False))
    model = replace(tiny_model(), config=sd1)
    assert to_ldm(model)["model.diffusion_model.middle_block.1.proj_in.weight"].ndim == 4
    assert to_ldm(model)["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4
    assert to_ldm(tiny_model())["model.diffusion_model.middle_block.1.proj_in.weight"].ndim == 2
    save(model, tmp_path / "sd1.safetensors")
    assert_same(load(tmp_path / "sd1.safetensors"), model)


# Telling models apart

TWO_KEYS = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
}


def write_two_keys(path: Path, context: int = 1024) -> Path:
    """As much of a checkpoint as it takes to recognise one; loading then stops at the first missing key."""
    save_file({key: torch.zeros((*s[:-1], context) if len(s) == 2 else s) for key, s in TWO_KEYS.items()}, path)
    return path


@pytest.mark.parametrize(
    ("file", "context", "name"),
    [
        ("v2-1_768-ema-pruned", 1024, "sd21"),
        ("v2-1_512-ema-pruned", 1024, "sd21-base"),
        ("my-base-finetune", 1024, "sd21-base"),
        ("anything_768", 768, "sd15"),
    ],
)
def test_models_are_told_apart_by_shape_then_by_name(tmp_path, file, context, name):
    with pytest.raises(ValueError, match=f"does not hold {name}:"):
        load(write_two_keys(tmp_path / f"{file}.safetensors", context))


def test_which_sd21_may_be_said(tmp_path):
    path = write_two_keys(tmp_path / "finetune.safetensors")
    with pytest.raises(ValueError, match="does not hold sd21-base:"):
        load(path, config="sd21-base")
    with pytest.raises(ValueError, match="does not hold sd21-base:"):
        load(path, prediction="eps")


@pytest.mark.parametrize(("prediction", "name"), [("v_prediction", "sd21"), ("epsilon", "sd21-base")])
def test_a_folder_says_what_it_predicts(tmp_path, prediction, name):
    names = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    for folder, stem in names.items():
        (tmp_path / folder).mkdir()
        write_two_keys(tmp_path / folder / f"{stem}.safetensors")
    to_k = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    unet = {"conv_in.weight": torch.zeros(320, 4, 3, 3), to_k: torch.zeros(320, 1024)}
    save_file(unet, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        f'{{"prediction_type": "{prediction}", "beta_schedule": "scaled_linear"}}'
    )
    with pytest.raises(ValueError, match=f"does not hold {name}:"):
        load(tmp_path)


def test_an_unknown_configuration_name_is_refused(tiny_file):
    with pytest.raises(ValueError, match="no configuration 'sdxl': want one of miniature, sd21"):
        load(tiny_file, config="sdxl")


# Refusing


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, tiny_file, share):
    whole = tiny_file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="no checkpoint, or only part of one"):
        load(tmp_path / "cut.safetensors")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "notes.safetensors").write_text("a photo of a cat, and some more words")
    with pytest.raises(ValueError, match="no checkpoint, or only part of one"):
        load(tmp_path / "notes.safetensors")
    save_file({"lora.weight": torch.zeros(3)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"fits none of sd21, .*, paint-by-example: for another, pass its config"):
        load(tmp_path / "lora.safetensors")


def test_a_pickled_checkpoint_loads_alike(tmp_path, tiny_file):
    """Old .ckpt files say no more than their tensors, and .pt is the same thing."""
    for old in (True, False):
        path = tmp_path / "model.ckpt"
        content = {"state_dict": load_file(tiny_file), "global_step": 3}
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        assert_same(load(path, config=tiny_config()), load(tiny_file))
        assert_same(load(path, config=tiny_config(), dtype=torch.float16), load(tiny_file, dtype=torch.float16))


def test_a_pickle_that_asks_to_run_something_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": subprocess.Popen}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"asks for \w+\.Popen on opening.*it was not run"):
        load(tmp_path / "model.ckpt", config=tiny_config())


def test_a_file_called_like_the_other_kind_is_refused(tmp_path, tiny_file):
    torch.save(load_file(tiny_file), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"pickle by its content.*rename it to a\.ckpt"):
        load(tmp_path / "a.safetensors")
    shutil.copy(tiny_file, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"safetensors file by its content.*rename it to b\.safetensors"):
        load(tmp_path / "b.ckpt")


def test_a_wrong_shape_is_named_with_both(tmp_path, tiny_file):
    state = load_file(tiny_file) | {"model.diffusion_model.time_embed.0.bias": torch.zeros(3)}
    save_file(state, tmp_path / "bent.safetensors")
    with pytest.raises(
        ValueError, match=r"1 of another shape \(model\.\S+time_embed\.0\.bias is \(3,\), wanted \(64,\)"
    ):
        load(tmp_path / "bent.safetensors", config=tiny_config())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_and_infinity_are_refused(tmp_path, tiny_file, value, dtype, device):
    state = {key: tensor.to(dtype) for key, tensor in load_file(tiny_file).items()}
    state["first_stage_model.decoder.conv_in.weight"][3, 1, 2, 0] = value
    save_file(state, tmp_path / "ill.safetensors")
    for wanted in (None, torch.float32, torch.float16):
        with pytest.raises(ValueError, match=r"the vae of \S+ holds NaN, infinity.* in decoder\.conv_in\.weight"):
            load(tmp_path / "ill.safetensors", device, wanted, config=tiny_config())


def test_numbers_too_large_for_float16_are_refused_there_alone(tmp_path, tiny_file):
    state = load_file(tiny_file)
    state["model.diffusion_model.out.2.bias"][0] = 1e5
    save_file(state, tmp_path / "large.safetensors")
    load(tmp_path / "large.safetensors", config=tiny_config())
    load(tmp_path / "large.safetensors", dtype=torch.bfloat16, config=tiny_config())
    with pytest.raises(ValueError, match=r"too large for float16 in conv_out\.bias"):
        load(tmp_path / "large.safetensors", dtype=torch.float16, config=tiny_config())


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no unet/diffusion_pytorch_model.safetensors"):
        load(tmp_path)
    shutil.copytree(LAYOUTS["diffusers"], tmp_path / "model")
    (tmp_path / "model" / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no text_encoder/model.safetensors"):
        load(tmp_path / "model", config=golden_config())


def test_the_wrong_model_is_refused(tiny_file):
    with pytest.raises(ValueError, match=r"does not hold sd15: its keys are .* missing .* unknown"):
        load(tiny_file, config="sd15")


def test_an_absent_model_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=r"`photoswap weights fetch sd21` gets it \(5.2 GB\)"):
        load("sd21")
    with pytest.raises(ValueError, match="is no file, no folder and none of miniature, sd21, sd21-base, sd15"):
        load(tmp_path / "nowhere.safetensors")


def test_official_names_are_found_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    write_two_keys(tmp_path / PUBLISHED["sd21-base"].file)
    with pytest.raises(ValueError, match="does not hold sd21-base:"):
        load("sd21-base")


def test_the_readme_lists_the_pinned_files():
    readme = (MINIATURE_FILE.parent / "README.md").read_text(encoding="utf-8")
    for name, published in PUBLISHED.items():
        assert all(part in readme for part in (f"`{name}`", published.file, published.sha256, published.page))


def test_the_miniature_is_in_the_repository():
    model = load("miniature")
    assert model.config == MINIATURE
    assert all(t.isfinite().all() for t in parameters(model).values())


# Writing complete or not at all


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_tiny_model(tmp_path / "model.safetensors")
    before = path.read_bytes()

    def full(state, file, metadata):
        Path(file).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("weights.load.save_file", full)
    with pytest.raises(OSError, match="No space left") as error:
        save(tiny_model(1), path)
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_folders_made_for_a_file_go_when_it_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "a" / "b" / "c.png"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic(tmp_path / "new.txt") as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("whole")
    assert (tmp_path / "new.txt").read_text() == "whole"
    assert (tmp_path / "new.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_metadata_is_one_line_so_that_bytes_repeat(tiny_file):
    with safe_open(tiny_file, framework="pt") as file:
        assert list(file.metadata()) == [CONFIG_KEY]


@pytest.mark.parametrize(
    "change", [{"prediction": "eps"}, {"rescale_zero_snr": True, "spacing": "trailing"}, {"beta_schedule": "linear"}]
)
def test_a_model_whose_schedule_was_replaced_is_saved_as_that(tmp_path, change):
    model = tiny_model()
    other = replace(model.schedule, **change)
    save(model.with_schedule(other), tmp_path / "other.safetensors")
    assert load(tmp_path / "other.safetensors").schedule == other != model.schedule
