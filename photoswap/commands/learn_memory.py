"""What `photoswap learn --dry-run` prints: how much memory it would take, before anything is done.

The weights need not be there, nor the device: a published name says what the model is (train/memory.py).
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from photoswap.commands.common import pick_device
from photoswap.commands.outputs import say

if TYPE_CHECKING:
    import torch

    from models.config import ModelConfig
    from train.config import LearnConfig
    from train.memory import Memory

NEED_NOT_BE_HERE = ("cuda", "mps")  # devices that may be asked about where there is none
BYTE_UNITS = {10**9: "GB", 10**6: "MB", 10**3: "kB"}
PICTURES_ASSUMED = 4  # pictures, where none are given


def model_asked_for(arguments: argparse.Namespace) -> "ModelConfig":
    """What the model is, read off its files or known by its name; no weight is read.

    Raises ValueError where there is neither, and for a model that does not draw whole pictures.
    """
    from models.config import MODELS, ModelConfig
    from weights.files import open_files
    from weights.published import locate
    from weights.recognise import configured, recognise

    name, told = arguments.model, arguments.config
    try:
        path = locate(name)
    except ValueError:
        if told is None and name not in MODELS:
            raise
        found = configured(told or name).config
    else:
        found = recognise(open_files(path), path, name, told, arguments.prediction).config
    if not isinstance(found, ModelConfig) or found.paints:
        raise ValueError(f"{name} is {found.name}, which paints inside a mask: take a model that draws whole pictures")
    return found


def tell_memory(arguments: argparse.Namespace, model: "ModelConfig", config: "LearnConfig", pictures: int) -> None:
    """Print the table, whether it fits, and what would."""
    from models.free_memory import free_bytes
    from train.memory import memory_of

    device, here = device_asked_for(arguments.device)
    size = config.size or model.native_size
    if size < 1 or size % model.granularity:
        raise ValueError(
            f"size is {size}; {model.name} learns from squares whose side is a multiple of {model.granularity}"
        )
    if not arguments.quiet:
        say("counting, some seconds ...", sys.stderr)
    memory = memory_of(model, config, size, pictures or PICTURES_ASSUMED, device)
    free = free_bytes(device) if here else None
    rows = f"{config.batch}{f' + {config.batch} of the class' if config.prior_weight else ''}"
    numbers = "bfloat16 autocast, float32 weights" if config.bfloat16 else "float32"
    say(f"{config.method} of {model.name} on {device}: squares of {size} px, {rows} a step, {numbers}")
    for line in memory_table(memory, config):
        say(line)
    for line in memory_verdict(memory, config, free, device):
        say(line)


def device_asked_for(name: str | None) -> "tuple[torch.device, bool]":
    """The device, and whether it is here."""
    import torch

    try:
        return pick_device(name), True
    except ValueError:
        if name not in NEED_NOT_BE_HERE:
            raise
        return torch.device(name), False


def memory_table(memory: "Memory", config: "LearnConfig") -> Iterator[str]:
    """Two columns: activations kept, and recomputed in the backward pass."""
    steps = [memory.step[recomputed] for recomputed in (False, True)]
    both: dict[str, tuple[int, int]] = {
        "weights of the networks": (memory.networks,) * 2,
        "what learns beside them": (memory.beside,) * 2,
        "weights to put back": (memory.given_back,) * 2,
        f"moments, {config.moments}": (memory.moments,) * 2,
        "text states, once for all": (memory.text,) * 2,
        "gradients, all of them": (memory.gradients,) * 2,
        "activations at their most": (steps[0].kept, steps[1].kept),
        "a step at its most: gradients": (steps[0].gradients, steps[1].gradients),
        "a step at its most: activations": (steps[0].activations, steps[1].activations),
        **{f"{what}, before": (bytes,) * 2 for what, bytes in memory.before.items()},
        **{f"{what}, between steps": (bytes,) * 2 for what, bytes in memory.between.items()},
        "AT MOST": (memory.total(False), memory.total(True)),
    }
    yield f"{'':<40}{'kept':>12}{'recomputed':>12}"
    yield from (f"{what:<40}{bytes_spelled(a):>12}{bytes_spelled(b):>12}" for what, (a, b) in both.items() if a or b)


def memory_verdict(memory: "Memory", config: "LearnConfig", free: int | None, device: "torch.device") -> Iterator[str]:
    """Whether it fits, what is chosen, and the flags that would make it fit."""
    from train.memory import ALLOWANCE

    yield f"beside it {bytes_spelled(ALLOWANCE)} are allowed for what libraries take inside of an operation"
    ways = dict(memory_by_flags(memory, config))
    if free is None:
        yield f"no {device} is here to compare with; at most, by flags:"
        yield from (f"  {flags:<48}{bytes_spelled(bytes):>12}" for flags, bytes in ways.items())
        return
    asked = config.gradient_checkpointing
    recomputed = not memory.fits(free, False) if asked is None else asked
    chosen = f"activations {'recomputed' if recomputed else 'kept'}, moments in {config.moments}"
    fits = memory.fits(free, recomputed)
    yield f"{device} has {bytes_spelled(free)} free: {chosen}: {'it fits' if fits else 'it does NOT fit'}"
    if not fits:
        enough = [flags for flags, bytes in ways.items() if bytes + ALLOWANCE <= free]
        yield f"would fit: {', '.join(enough) or 'no flag makes it: a smaller --size, --batch, or another --method'}"


def memory_by_flags(memory: "Memory", config: "LearnConfig") -> Iterator[tuple[str, int]]:
    """Flags that change how much it takes, and how much it then takes at most."""
    yield "--no-gradient-checkpointing", memory.total(False)
    yield "--gradient-checkpointing", memory.total(True)
    if config.moments == "float32":
        yield "--low-memory", memory.with_small_moments().total(True)


def bytes_spelled(number: int) -> str:
    """Bytes as people write them; a GB is 10^9."""
    power, unit = next((power, unit) for power, unit in BYTE_UNITS.items() if number >= power or power == 1000)
    return f"{number / power:.{2 if unit == 'GB' else 1}f} {unit}"
