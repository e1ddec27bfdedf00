"""Train the miniature on a GPU in sittings: data, autoencoder, diffusion, recogniser, each a command that resumes.

What a sitting leaves has to fit through a narrow door: checkpoints go out in pieces of at most 15 MiB, and are joined
again where the next sitting finds them.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PIECE = 15 * 2**20
MINUTES: Mapping[str, float] = {"autoencoder": 5, "diffusion": 14, "recogniser": 3}  # on a large GPU


@dataclass(frozen=True)
class Stage:
    """One command of the training."""

    name: str
    command: tuple[str, ...]


def stages(work: Path, device: str, tiny: bool) -> list[Stage]:
    """In order. work: a folder on a disk of the machine, for data and checkpoints. tiny: to see that all of it runs."""
    data, count = work / "data", "1000" if tiny else "40000"
    told = ("--data", str(data), "--device", device)
    budget = {name: ("--steps", "2") if tiny else ("--minutes", str(MINUTES[name])) for name in MINUTES}
    batch = dict.fromkeys(MINUTES, "2") if tiny else {"autoencoder": "128", "diffusion": "256", "recogniser": "512"}
    half = () if tiny else ("--bf16",)

    def out(name: str) -> tuple[str, ...]:
        return ("--out", str(work / name), "--batch", batch[name], *told, *budget[name])

    learnt = ("--autoencoder", str(work / "autoencoder" / "autoencoder.pt"))
    weights = ("--weights", str(work / "recogniser" / "recogniser.safetensors"))
    return [
        Stage("data", ("train.miniature.data", "--out", str(data), "--count", count)),
        Stage("autoencoder", ("train.miniature.autoencoder", *out("autoencoder"), *half)),
        Stage("diffusion", ("train.miniature.diffusion", *out("diffusion"), *half, *learnt)),
        Stage("recogniser", ("train.recogniser.learn", *out("recogniser"), *weights)),
    ]


def run_stage(stage: Stage, root: Path, seconds: float) -> tuple[str, str]:
    """Run it for so long at most: ("done", "stopped" or "failed", its last line). Stopped, it goes on the next time."""
    process = subprocess.Popen(
        [sys.executable, "-m", *stage.command], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate(timeout=max(1.0, seconds))
        how = "done" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it keeps a checkpoint
        said, _ = process.communicate()
        how = "stopped"
    return how, said.strip().rsplit("\n", 1)[-1][-300:]


def send_out(work: Path, out: Path) -> list[str]:
    """Put what a stage keeps into `out`, in pieces; returns the names."""
    names = []
    for path in sorted([*work.glob("*/*.pt"), *work.glob("*/*.safetensors")]):
        for number, piece in enumerate(_pieces(path)):
            name = f"{path.parent.name}-{path.name}.{number:02}"
            (out / name).write_bytes(piece)
            names.append(name)
    return names


def take_in(out: Path, work: Path) -> None:
    """Join the pieces of an earlier sitting."""
    wholes: dict[Path, list[Path]] = {}
    for piece in sorted(out.glob("*.[0-9][0-9]")):
        folder, _, name = piece.stem.partition("-")
        wholes.setdefault(work / folder / name, []).append(piece)
    for path, pieces in wholes.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
