"""SD 2.1 at its published size, with random weights: `pytest -m slow tests/test_full_size.py -s`.

Takes 8 GB of disk below the temporary folder, 10 GB of memory and some minutes on two cores. What is measured is
printed. It runs on the CPU unless --device says otherwise, or a CUDA device is present.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import full_size
import pytest
import torch
from safetensors.torch import load_file
from test_names import shapes
from tiny import distance
from tiny_model import tiny_config

from weights.load import load, meta_model, to_ldm
from weights.published import PUBLISHED

ROOT = Path(__file__).parents[1]
HALF = {torch.float16: "v2-1_768-ema-pruned.fp16.safetensors"}
SIDES = (64, 96)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """SD 2.1 in float32, to the byte as long as the published file, and the same rounded to float16."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    folder = tmp_path_factory.mktemp("full")
    if shutil.disk_usage(folder).free < 9e9:
        pytest.skip(f"two checkpoints of together 7.8 GB do not fit below {folder}")
    paths = {torch.float32: folder / PUBLISHED["sd21"].file} | {d: folder / name for d, name in HALF.items()}
    try:
        full_size.write_random(shapes("sd21_ldm"), paths, PUBLISHED["sd21"].bytes)
        yield paths
    finally:
        shutil.rmtree(folder)


def alone(*arguments: object) -> dict[str, float]:
    """One job of full_size.py in a fresh process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, full_size.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def timed(got: dict[str, float], name: str) -> str:
    """How long something took; on a busy machine the seconds of the CPU say more."""
    return f"{name} {got[name]:.1f} s (CPU {got[f'{name} cpu']:.1f})"


def spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=spelled)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16], ids=lambda d: f"from_{spelled(d)}")
def test_loading_peaks_at_little_more_than_the_weights(stored, dtype, files, device):
    assert files[torch.float32].stat().st_size == PUBLISHED["sd21"].bytes
    got = alone("load", files[stored], spelled(dtype), device)
    print(
        f"\n{spelled(stored)} file -> {spelled(dtype)}: {timed(got, 'read')}, {timed(got, 'load')}; weights "
        f"{got['weights'] / 1e9:.3f} GB, peak {got['peak'] / 1e9:.3f} GB ({got['peak'] / got['weights']:.3f} times), "
        f"whole process {got['process'] / 1e9:.3f} GB"
    )
    assert got["weights"] == 1_289_952_427 * dtype.itemsize
    assert got["weights"] <= got["peak"] <= 1.2 * got["weights"]


@pytest.mark.slow
def test_text_to_picture_in_float32_and_in_half_precision(files, device, tmp_path):
    """float16 only on a GPU: CPUs emulate its matrix products, a hundred times slower."""
    halves = [torch.bfloat16] if device.type == "cpu" else [torch.bfloat16, torch.float16]
    outputs = {}
    for dtype in (torch.float32, *halves):
        path = tmp_path / f"{spelled(dtype)}.safetensors"
        got = alone("run", files[torch.float32], spelled(dtype), device, path, *SIDES)
        outputs[dtype] = load_file(path)
        times = ", ".join(timed(got, key) for key in outputs[dtype])
        print(f"\n{spelled(dtype)}: {times}; peak beside the weights {got['peak'] / 1e9:.2f} GB")
        assert {key: tuple(tensor.shape) for key, tensor in outputs[dtype].items()} == expected_shapes()
        assert all(tensor.isfinite().all() for tensor in outputs[dtype].values())
    for dtype in halves:
        errors = {key: distance(outputs[dtype][key], wide) for key, wide in outputs[torch.float32].items()}
        print(f"{spelled(dtype)} against float32: " + ", ".join(f"{key} {e:.2e}" for key, e in errors.items()))
        assert max(errors.values()) < 10 * torch.finfo(dtype).eps / 2  # ten roundings' worth: see test_half_precision


def expected_shapes() -> dict[str, tuple[int, ...]]:
    nets = {f"unet {side}": (1, 4, side, side) for side in SIDES}
    return {"context": (1, 77, 1024)} | nets | {f"decode {side}": (1, 3, 8 * side, 8 * side) for side in SIDES}


def test_what_is_written_loads_and_runs(tmp_path):
    """The same helpers on a tiny network, so that they are sound when the long tests are asked for."""
    model = to_ldm(meta_model(tiny_config()))
    paths = {dtype: tmp_path / f"{spelled(dtype)}.safetensors" for dtype in (torch.float32, torch.float16)}
    length = 7_000_002
    full_size.write_random({key: list(tensor.shape) for key, tensor in model.items()}, paths, length)
    assert paths[torch.float32].stat().st_size == length
    wide, half = (load(path, config=tiny_config()) for path in paths.values())
    assert int.from_bytes(paths[torch.float32].read_bytes()[:8], "little") % 4 == 2  # where the weights begin
    assert torch.equal(half.unet.conv_in.weight, wide.unet.conv_in.weight.half().float())
    assert abs(wide.unet.conv_in.weight.std().item() * 36**0.5 - 1) < 0.1
    with torch.no_grad():
        picture = wide.decode(wide.unet(torch.randn(1, 4, 8, 8), 500, wide.encode_text("a cat")))
    assert picture.isfinite().all()
