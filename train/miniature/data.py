"""Draw the training set: python -m train.miniature.data --out runs/data --count 40000

Pictures are stored as chunks of 1000 in NumPy files beside the scenes they show, one JSON object a line. A chunk that
is there is not drawn again, so an interrupted run goes on where it was; scene i is the same in any run of that seed.
"""

import argparse
import dataclasses
import json
import os
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from train.world import FULL, SMALL, Look, Pose, Scene, World, draw

WORLDS: dict[str, World] = {"small": SMALL, "full": FULL}
CHUNK = 1000
SIZE = 128


def scene_at(world: World, seed: int, index: int, unseen: bool = False) -> Scene:
    """Scene number `index` of a stream; unseen draws from the looks kept out of training."""
    rng = np.random.default_rng([seed, index])
    return world.scene(rng, world.look(rng, unseen=unseen))


def to_json(scene: Scene) -> str:
    """A scene as one line."""
    return json.dumps(dataclasses.asdict(scene))


def from_json(line: str) -> Scene:
    """The inverse of to_json."""
    values = json.loads(line)
    return Scene(look=Look(**values.pop("look")), pose=Pose(**values.pop("pose")), **values)


def draw_chunk(task: tuple[str, int, int, Path]) -> None:
    """Draw one chunk of (world name, seed, chunk number, folder) and move it into place when whole."""
    name, seed, number, folder = task
    scenes = [scene_at(WORLDS[name], seed, number * CHUNK + i) for i in range(CHUNK)]
    pictures = np.stack([np.asarray(draw(scene, SIZE).image) for scene in scenes])
    stem = folder / f"{number:05d}"
    partial = stem.with_suffix(f".{os.getpid()}.part.npy")
    np.save(partial, pictures)
    stem.with_suffix(".jsonl").write_text("".join(to_json(scene) + "\n" for scene in scenes))
    os.replace(partial, stem.with_suffix(".npy"))


def claim(folder: Path, world: str, seed: int) -> None:
    """Make the folder this stream's own. Raises ValueError when it holds another world's chunks, or another seed's."""
    note, wanted = folder / "stream.json", {"world": world, "seed": seed}
    folder.mkdir(parents=True, exist_ok=True)
    if not note.exists():
        note.write_text(json.dumps(wanted))
    if (there := json.loads(note.read_text())) != wanted:
        raise ValueError(f"{folder} holds {there}, not {wanted}: choose another --out")


def load(folder: Path) -> tuple[list[NDArray[np.uint8]], list[Scene]]:
    """Every finished chunk: memory-mapped pictures (1000 128 128 3), and all scenes in the same order."""
    files = sorted(path for path in folder.glob("[0-9]*.npy") if ".part" not in path.name)
    if not files:
        raise ValueError(f"{folder} holds no drawn chunks; run python -m train.miniature.data --out {folder} first")
    scenes = [from_json(line) for path in files for line in path.with_suffix(".jsonl").read_text().splitlines()]
    return [np.load(path, mmap_mode="r") for path in files], scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/data"))
    parser.add_argument("--world", choices=WORLDS, default="small")
    parser.add_argument("--count", type=int, default=40000, help="pictures, rounded up to whole chunks of 1000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    claim(args.out, args.world, args.seed)
    chunks = range(-(-args.count // CHUNK))
    missing = [(args.world, args.seed, i, args.out) for i in chunks if not (args.out / f"{i:05d}.npy").exists()]
    with Pool(args.workers) as pool:
        for _ in tqdm(pool.imap_unordered(draw_chunk, missing), total=len(missing), unit="chunk"):
            pass


if __name__ == "__main__":
    main()
