"""The files of a checkpoint: one, or those of a folder under any of the names they are published with."""

import pytest
import torch
from safetensors.torch import load_file
from test_convert import assert_same
from test_pickles import Malice
from tiny_model import tiny_model

from weights.convert import convert
from weights.files import HF_FILES, open_files
from weights.folder import save_folder
from weights.load import load
from weights.names import NETWORKS
from weights.verify import verify

BINS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "pytorch_model"}


@pytest.fixture
def folder(tmp_path):
    """The tiny model in the folder layout."""
    save_folder(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


def to_bin(folder, variant=""):
    """Turn the weights into pickles, under the names these have."""
    for home, stem in map(HF_FILES.__getitem__, NETWORKS):
        file = folder / home / f"{stem}.safetensors"
        torch.save(load_file(file), folder / home / f"{BINS[home]}{variant}.bin")
        file.unlink()


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_folder_of_bin_files_is_the_same_model(folder, tmp_path, variant):
    safe = load(folder)
    state = {
        part: load_file(folder / home / f"{stem}.safetensors")
        for part, (home, stem) in ((part, HF_FILES[part]) for part in NETWORKS)
    }
    to_bin(folder, variant)
    assert_same(load(folder), safe)
    report = verify(folder)
    assert [file.path.suffix for file in report.files] == [".bin"] * 3 and report.layout == "folder"
    convert(folder, tmp_path / "again", "folder")
    for part, (home, stem) in ((part, HF_FILES[part]) for part in NETWORKS):
        again = load_file(tmp_path / "again" / home / f"{stem}.safetensors")
        assert all(torch.equal(again[key], tensor) for key, tensor in state[part].items())


@pytest.mark.parametrize("home", BINS)
def test_a_bin_file_that_asks_to_run_something_is_refused(folder, tmp_path, home):
    to_bin(folder)
    torch.save({"a": torch.ones(1), "x": Malice(open, str(tmp_path / "ran"), "w")}, folder / home / f"{BINS[home]}.bin")
    with pytest.raises(ValueError, match=r"asks for \w+\.open on opening.*it was not run"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_safetensors_come_before_pickles_and_full_before_half(folder):
    unet = folder / "unet"
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"):
        (unet / name).write_bytes(b"broken")
    assert open_files(folder)["unet"].path.name == "diffusion_pytorch_model.safetensors"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.fp16.safetensors")
    assert open_files(folder)["unet"].path.name == "diffusion_pytorch_model.fp16.safetensors"


def test_weights_in_several_pieces_are_refused(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "piece-1.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has unet/diffusion_pytorch_model\.safetensors in several pieces"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn], ids=str)
def test_weights_that_are_no_floating_point_numbers_are_refused(folder, dtype):
    to_bin(folder)
    path = folder / "vae" / "diffusion_pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    key = next(iter(state))
    torch.save(state | {key: state[key].to(dtype)}, path)
    for refuse in (load, verify):
        with pytest.raises(ValueError, match=f"as {str(dtype)[6:]}: want weights in float16"):
            refuse(folder)
