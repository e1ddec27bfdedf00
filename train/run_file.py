"""The checkpoint that learning resumes from: all that changes from step to step, and what the run was begun with.

And copying tensors into networks by name, as resuming does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weights.names import NetworkName
from weights.records import FileKind, TensorRule, listed, read, write

CHECKPOINT_DTYPES = (torch.float32, torch.float64)
MOMENT_DTYPES = (*CHECKPOINT_DTYPES, torch.uint8)
LARGEST_SQUARE = 3e38  # of float32


@dataclass(frozen=True)
class RunRecord:
    """What a checkpoint says beside its tensors.

    base: fingerprint of the model. pictures: hash of the references. settings: the configuration. done: steps taken.
    """

    base: str
    pictures: str
    settings: Mapping[str, Any]
    done: int


def _upgraded(version: int, record: dict[str, Any]) -> dict[str, Any]:
    """What an older version said, as this one says it.

    The first had one resampling for each way of cropping, and called gradient checkpointing otherwise. The second knew
    DreamBooth alone, the third moments in float32, the fourth rates that stay, and the fifth Custom Diffusion of keys
    and values.
    """
    settings = {"rate_schedule": "constant", **record["settings"]}
    if version == 1:
        settings.setdefault("resampling", "bilinear" if settings.get("random_crop") else "lanczos")
        settings["gradient_checkpointing"] = settings.pop("checkpointing", False)
    if settings.get("method") == "custom-diffusion":
        settings.setdefault("whole_attention", False)
    unsaid = {"method": "dreambooth", "scale_learning_rate": False, "moments": "float32"}
    return {**record, "settings": {**unsaid, **settings}}


RUN_KIND = FileKind(
    "learning checkpoint",
    RunRecord,
    {
        "adamw.*.step": TensorRule((), (torch.float32,), (0, 1e9), wanted=False),
        "adamw.*.exp_avg": TensorRule(dtypes=MOMENT_DTYPES, wanted=False),
        "adamw.*.exp_avg_sq": TensorRule(dtypes=MOMENT_DTYPES, limits=(0, LARGEST_SQUARE), wanted=False),
        "adamw.*.exp_avg_scale": TensorRule(dtypes=(torch.float32,), limits=(0, LARGEST_SQUARE), wanted=False),
        "adamw.*.exp_avg_sq_scale": TensorRule(dtypes=(torch.float32,), limits=(0, LARGEST_SQUARE), wanted=False),
        "unet.*": TensorRule(dtypes=CHECKPOINT_DTYPES, wanted=False),
        "text.*": TensorRule(dtypes=CHECKPOINT_DTYPES, wanted=False),
        "word/*": TensorRule(dtypes=CHECKPOINT_DTYPES, wanted=False),
        "instances.generator": TensorRule(("state",), (torch.uint8,)),
        "instances.queue": TensorRule(("instances left",), (torch.int64,), (0, 1e9)),
        "classes.generator": TensorRule(("state",), (torch.uint8,), wanted=False),
        "classes.queue": TensorRule(("classes left",), (torch.int64,), (0, 1e9), wanted=False),
    },
    limits={"base": (1, 200), "pictures": (1, 200), "done": (0, 10**9)},
    sizes={"state": (1, 2**16), "instances left": (0, 2**24), "classes left": (0, 2**24)},
    version=6,
    upgrade=_upgraded,
    again="start again without resume",
)


def write_run(path: str | Path, state: Mapping[str, Tensor], record: RunRecord) -> None:
    """Write a checkpoint, complete or not at all. Raises ValueError for one that could not be read, and OSError."""
    write(path, RUN_KIND, state, record)


def read_run(path: str | Path) -> tuple[dict[str, Tensor], RunRecord]:
    """The tensors of a checkpoint, on the CPU, and what the run was begun with. Raises ValueError."""
    return read(path, RUN_KIND)


def copy_into(networks: Mapping[NetworkName, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors named "network.name" into the networks, whose dtype and device stay. Every name, every shape.

    Raises ValueError naming some that are missing, unknown or of another shape; nothing is copied then.
    """
    fill({f"{n}.{name}": p for n, network in networks.items() for name, p in network.state_dict().items()}, tensors)


@torch.no_grad()
def fill(places: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into places of the same names, whose dtype and device stay. Every name, every shape.

    Raises ValueError naming some that are missing, unknown or of another shape; nothing is copied then.
    """
    strange = places.keys() ^ tensors.keys()
    strange |= {name for name in places.keys() & tensors.keys() if places[name].shape != tensors[name].shape}
    if strange:
        raise ValueError(
            f"{len(strange)} tensors are missing, unknown or of another shape: {listed(sorted(strange))}; "
            "is the file for another network?"
        )
    for name, place in places.items():
        place.copy_(tensors[name])
