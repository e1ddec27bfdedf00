"""How much memory a device has left."""

import sys
from pathlib import Path

import torch

MEMINFO, GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # Linux: of the machine, and of a container


def free_bytes(device: torch.device) -> int:
    """Memory that may still be had, on a GPU or in the machine; all there could be where the system does not say.

    What torch has taken from a GPU and not given out counts as free. Files that the system keeps in memory do so too:
    they make room.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_of_machine(), _of_container()) if device.type == "cpu" else sys.maxsize


def _of_machine() -> int:
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):  # another system
        return sys.maxsize


def _of_container() -> int:
    try:
        limit, used = (int((GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat["inactive_file"]))
    except (OSError, KeyError, ValueError):  # none, or "max", which is no limit
        return sys.maxsize
