"""Checkpoints of the published size with random weights, and what it takes to load and to run them.

Run as a script it does one job in a process of its own, whose memory nothing else has touched, and prints JSON:
`full_size.py load FILE DTYPE DEVICE` or `full_size.py run FILE DTYPE DEVICE OUTPUTS SIDE...`.
"""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.stable_diffusion import StableDiffusion
from weights.load import load, networks_of

SPELLED = {torch.float32: "F32", torch.float16: "F16"}
STEP = 500  # the training timestep of the one call: half signal, half noise


def write_random(shapes: Mapping[str, list[int]], files: Mapping[torch.dtype, Path], length: int | None = None) -> None:
    """Draw a checkpoint and write it in several dtypes at once, holding no more than one tensor.

    The format is eight bytes of header length, a JSON header, then the tensors' bytes. length: of the float32 file, its
    header padded to reach it; in the published one the weights begin at no multiple of four, and so do they here.
    """
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as stack:
        handles = {dtype: stack.enter_context(open(path, "wb")) for dtype, path in files.items()}
        for dtype, handle in handles.items():
            handle.write(_header(shapes, dtype, length if dtype == torch.float32 else None))
        for key in sorted(shapes):
            tensor = _draw(key, shapes[key], generator)
            for dtype, handle in handles.items():
                handle.write(tensor.to(dtype).flatten().numpy())


def _header(shapes: Mapping[str, list[int]], dtype: torch.dtype, length: int | None) -> bytes:
    entries, end = {}, 0
    for key in sorted(shapes):
        begin, end = end, end + dtype.itemsize * math.prod(shapes[key])
        entries[key] = {"dtype": SPELLED[dtype], "shape": shapes[key], "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8 if length is None else length - 8 - end)
    return len(text).to_bytes(8, "little") + text


def _draw(key: str, shape: list[int], generator: torch.Generator) -> Tensor:
    """Norms as they begin, no biases, and matrices and kernels that keep the variance of what passes through."""
    if len(shape) < 2:
        return torch.ones(shape) if key.endswith(".weight") else torch.zeros(shape)
    return torch.randn(shape, generator=generator).mul_(math.prod(shape[1:]) ** -0.5)


def measure_load(file: Path, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Seconds to read the file and to load it; bytes of the weights and of the peak.

    The peak is what the process holds above what it held before, imports done: file pages that are mapped count as
    well, and since a mapped weight is not there before it is used, every page of every weight is touched. Reading first
    leaves the file in the system's cache, where there is room for it, so that loading hardly waits for the disk.
    """
    seconds: dict[str, float] = {}
    with stopwatch(seconds, "read"), open(file, "rb", buffering=0) as handle:
        while handle.read(2**24):
            pass
    with peak_memory(device) as peak, stopwatch(seconds, "load"):
        model = load(file, device, dtype)
        for tensor in parameters(model):
            tensor.flatten()[:: 4096 // tensor.itemsize].sum().item()
    weights = sum(tensor.nbytes for tensor in parameters(model))
    assert {(tensor.dtype, tensor.device.type) for tensor in parameters(model)} == {(dtype, device.type)}
    return {"weights": weights} | peak | seconds


@torch.no_grad()
def measure_run(
    file: Path, dtype: torch.dtype, device: torch.device, outputs: Path, sides: list[int]
) -> dict[str, float]:
    """Text to context, one call of the U-Net and a picture for each side of latents; writes them all to `outputs`.

    Returns the seconds of each and the peak in bytes. The pictures are not clipped, which would hide infinities.
    """
    model = load(file, device, dtype)
    seconds: dict[str, float] = {}
    results = {}
    with peak_memory(device) as peak:
        with stopwatch(seconds, "context"):
            context = results["context"] = model.encode_text("a photo of a man")
        for side in sides:
            latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(side)).to(device)
            with stopwatch(seconds, f"unet {side}"):
                output = model.unet(latents.to(dtype), STEP, context)
            clean = model.schedule.to_x0(output.float(), latents, STEP) / model.config.vae.scale_factor
            with stopwatch(seconds, f"decode {side}"):
                picture = model.vae.decode(clean.to(dtype))
            results |= {f"unet {side}": output, f"decode {side}": picture}
    assert {tensor.dtype for tensor in results.values()} == {dtype}
    save_file({key: tensor.float().cpu().contiguous() for key, tensor in results.items()}, outputs)
    return peak | seconds


def parameters(model: StableDiffusion) -> list[Tensor]:
    return [parameter.detach() for network in networks_of(model).values() for parameter in network.parameters()]


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes the seconds that a block takes under `name`, and those that its threads compute under `name cpu`."""
    start, cpu = perf_counter(), process_time()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds |= {name: perf_counter() - start, f"{name} cpu": process_time() - cpu}


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Yields a dict that holds, once the block is left, the bytes by which memory rose at its highest.

    peak: on the device, or resident in the process where that is the CPU; process: all that was resident, with the
    interpreter and the libraries. Linux keeps the high-water mark, and sets it back when a 5 is written to clear_refs.
    """
    measured: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield measured
    measured["process"] = _status("VmHWM")
    on_host = measured["process"] - before
    measured["peak"] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else on_host


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(task: str, file: str, dtype: str, device: str, *rest: str) -> dict[str, Any]:
    where = Path(file), getattr(torch, dtype), torch.device(device)
    if task == "load":
        return measure_load(*where)
    return measure_run(*where, Path(rest[0]), [int(side) for side in rest[1:]])


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    print(json.dumps(main(*sys.argv[1:])))
