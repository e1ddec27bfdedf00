"""`photoswap learn --dry-run`: the memory it would take, before anything is loaded or written."""

import pytest
import torch
from command_line import ALONE, files, refused
from tiny_model import tiny_config

from models.config import SD21_BASE
from photoswap.__main__ import main
from train.config import DreamBoothConfig
from train.memory import ALLOWANCE, Memory, StepMemory, memory_of

GB = 10**9
STEPS = {False: StepMemory(3 * GB, 2 * GB, 4 * GB), True: StepMemory(4 * GB, GB, 2 * GB)}
COUNTED = Memory(5 * GB, 0, 0, 0, 10 * GB, 2 * GB, 1000, 5 * GB, STEPS, {"encoding pictures": GB}, {})


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What was asked of the count, which answers at once; no published weights are there."""
    calls = []
    monkeypatch.setenv("PHOTOSWAP_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setattr("train.memory.memory_of", lambda *given: (calls.append(given), COUNTED)[1])
    return calls


def test_what_it_prints_is_what_was_counted_and_it_writes_nothing(tiny, pictures, tmp_path, capsys):
    line = ["learn", str(pictures / "references"), *ALONE, *tiny, "--dry-run", "--out", str(tmp_path / "out")]
    assert main(line) == 0
    told = capsys.readouterr().out
    assert "1 a step, float32" in told and "it fits" in told and files(tmp_path) == []
    counted = memory_of(tiny_config(), DreamBoothConfig("cat", prior_weight=0.0), 64, 3, torch.device("cpu"))
    assert f"{counted.total(False) / 1e6:.1f} MB" in told and f"{counted.total(True) / 1e6:.1f} MB" in told
    assert f"{counted.given_back / 1e6:.1f} MB" in told


def test_neither_weights_nor_pictures_nor_the_device_need_be_there(asked, tmp_path, capsys):
    line = ["learn", "--class", "cat", "--dry-run", "--model", "sd21-base", "--out", str(tmp_path / "out")]
    assert main([*line, "--device", "cuda", "--low-memory", "--dtype", "bfloat16"]) == 0
    ((model, config, size, count, device),) = asked
    assert (model, size, count, device.type) == (SD21_BASE, 512, 4, "cuda")
    assert (config.moments, config.gradient_checkpointing, config.bfloat16) == ("8bit", True, True)
    told = capsys.readouterr()
    assert told.err == "counting, some seconds ...\n" and "bfloat16 autocast, float32 weights" in told.out
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("free", "flags", "wanted"),
    [
        (25, [], "activations kept, moments in float32: it fits"),
        (20.5, ["--no-gradient-checkpointing"], "would fit: --low-memory\n"),
        (13.5, [], "would fit: --low-memory\n"),
        (13.5, ["--low-memory"], "activations recomputed"),
        (5, [], "would fit: no flag makes it"),
        (25, ["--gradient-checkpointing"], "activations recomputed, moments in float32: it fits"),
    ],
)
def test_it_says_whether_it_fits_and_what_would(asked, monkeypatch, tmp_path, capsys, free, flags, wanted):
    monkeypatch.setattr("models.free_memory.free_bytes", lambda _: int(free * GB))
    line = ["learn", "--class", "cat", "--dry-run", "--model", "sd21-base", "--device", "cpu"]
    assert main([*line, *flags, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert wanted in told and ("would fit" in told) == ("does NOT fit" in told)
    assert f"{ALLOWANCE / GB:.2f} GB are allowed" in told


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--model", "nowhere"], "no model 'nowhere'"),
        (["--model", "sd2-inpainting"], "take a model that draws whole pictures"),
        (["--model", "sd21-base", "--size", "100"], "multiple of 64"),
        (["--model", "sd21-base", "--device", "cuda:7"], "no device 'cuda:7' here"),
        (["--model", "sd21-base", "--rank", "3"], "changes nothing"),
        (["--config", "sd99", "--model", "nowhere"], "no configuration 'sd99'"),
        (["--model", "sd21-base", "--shard"], "counts a process that holds all; leave --shard out"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(asked, tmp_path, capsys, flags, complaint):
    line = ["learn", "--class", "cat", "--dry-run", "--quiet", "--out", tmp_path / "out"]
    assert complaint in refused(capsys, *line, *flags)
    assert not asked


@pytest.mark.slow
@pytest.mark.parametrize(("method", "flags", "most"), [("dreambooth", ["--low-memory"], 16), ("lora", [], 8)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stable_diffusion_is_learnt_in_so_many_gigabytes(tmp_path, capsys, method, flags, most, dtype):
    """SD 2.1 base at 512, and what libraries are allowed; activations are recomputed where they must be."""
    line = ["learn", "--class", "cat", "--dry-run", "--model", "sd21-base", "--device", "cuda", "--method", method]
    assert main([*line, *flags, "--dtype", dtype, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    kept, recomputed = (float(word) for word in told.split("AT MOST")[1].split()[0:4:2])
    assert min(kept, recomputed) + ALLOWANCE / GB <= most
    assert max(kept, recomputed) <= most
