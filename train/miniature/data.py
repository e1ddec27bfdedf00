"""Draw the training set: python -m train.miniature.data --out runs/data --count 40000

Most scenes show one subject, some two, some one that something in front hides in part: --shares says how many. Pictures
are stored as chunks of 1000 in NumPy files beside the scenes they show, one JSON object a line. A chunk that is there
is not drawn again, so an interrupted run goes on where it was; scene i is the same in any run of that seed and shares.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from train.world import FULL, SMALL, Front, Look, Pose, Scene, Subject, World, render
from weights.atomic import atomic

WORLDS: dict[str, World] = {"small": SMALL, "full": FULL}
SCENE_KINDS = ("single", "pair", "hidden")
Shares = tuple[float, ...]
SHARES: Shares = (0.65, 0.2, 0.15)
CHUNK_SIZE = 1000
STREAM_NOTE = "stream.json"  # in each folder: which stream its chunks are of
SIZE = 128
STREAMS = {
    "training": 0,
    "held out": 10_000,  # the losses and accuracies printed while training
    "judge": 20_000,
    "development": 30_000,  # a benchmark's: whatever is tuned is tuned here
    "test": 40_000,  # a benchmark's: read for a table and for nothing else
}


def scene_at(world: World, seed: int, index: int, unseen: bool = False) -> Scene:
    """Scene number `index` of a stream, of one subject; unseen draws from the looks kept out of training."""
    rng = np.random.default_rng([seed, index])
    return world.scene(rng, world.look(rng, unseen=unseen))


def mixed_scene_at(world: World, seed: int, index: int, shares: Shares = SHARES, unseen: bool = False) -> Scene:
    """Scene number `index` of a stream of all three kinds; a scene of one subject is the one of scene_at.

    shares: how often each of SCENE_KINDS occurs, adding up to 1.
    """
    kind = np.random.default_rng([seed, index, 1]).choice(SCENE_KINDS, p=shares)
    rng = np.random.default_rng([seed, index])
    look = world.look(rng, unseen=unseen)
    if kind == "pair":
        return world.pair(rng, look)
    return world.hidden(rng, look) if kind == "hidden" else world.scene(rng, look)


def to_json(scene: Scene) -> str:
    """A scene as one line."""
    return json.dumps(
        dataclasses.asdict(scene)
        | {"others": [{"look": dataclasses.asdict(s.look), "pose": dataclasses.asdict(s.pose)} for s in scene.others]}
    )


def from_json(line: str) -> Scene:
    """The inverse of to_json."""
    values = json.loads(line)
    others = tuple(Subject(Look(**other["look"]), Pose(**other["pose"])) for other in values.pop("others", ()))
    front = values.pop("front", None)
    look, pose = Look(**values.pop("look")), Pose(**values.pop("pose"))
    return Scene(look, pose, others=others, front=Front(**front) if front else None, **values)


def draw_chunk(task: tuple[str, int, Shares, bool, int, Path]) -> None:
    """Draw one chunk and move it into place when it is finished.

    task: the world's name, the seed, the shares, whether looks are those kept out of training, the chunk's number, and
    the folder.
    """
    name, seed, shares, unseen, number, folder = task
    first = number * CHUNK_SIZE
    scenes = [mixed_scene_at(WORLDS[name], seed, first + i, shares, unseen) for i in range(CHUNK_SIZE)]
    drawn = [render(scene, SIZE) for scene in scenes]
    subjects = [np.any([np.asarray(mask) > 127 for mask in rendering.masks], axis=0) for rendering in drawn]
    stem = folder / f"{number:05d}"
    with atomic(stem.with_suffix(".jsonl")) as place:
        place.write_text("".join(to_json(scene) + "\n" for scene in scenes))
    with atomic(stem.with_suffix(".masks.npy")) as place:
        np.save(place, np.packbits(subjects, axis=-1))
    with atomic(stem.with_suffix(".npy")) as place:  # last: it is what says that the chunk is there
        np.save(place, np.stack([np.asarray(rendering.image) for rendering in drawn]))


def claim(folder: Path, world: str, seed: int, shares: Shares = SHARES, unseen: bool = False) -> None:
    """Make the folder this stream's own.

    Raises ValueError when it holds chunks of another world, seed, mixture or kind of looks, and when the seed is one
    that is kept for judging.
    """
    kept = {number: name for name, number in STREAMS.items() if name != "training"}
    if seed in kept:
        raise ValueError(f"seed {seed} is the stream called {kept[seed]!r}, which is not for training; take another")
    note = folder / STREAM_NOTE
    wanted = {"world": world, "seed": seed, "shares": list(shares), "unseen": unseen}
    folder.mkdir(parents=True, exist_ok=True)
    if not note.exists():
        with atomic(note) as place:
            place.write_text(json.dumps(wanted))
    if (there := json.loads(note.read_text())) != wanted:
        raise ValueError(f"{folder} holds {there}, not {wanted}: choose another --out")


def load_chunks(folders: Path | Sequence[Path], unseen: bool = False) -> tuple[list[NDArray[np.uint8]], list[Scene]]:
    """Every finished chunk of one or more folders: memory-mapped pictures (1000 128 128 3), and all scenes in order.

    unseen: whether folders of looks kept out of training may be among them. Raises ValueError naming a folder that
    holds no chunks, or looks that it should not.
    """
    files = _finished(folders)
    for folder in {path.parent for path in files} if not unseen else ():
        if (folder / STREAM_NOTE).exists() and json.loads((folder / STREAM_NOTE).read_text()).get("unseen"):
            raise ValueError(f"{folder} holds looks kept out of training; only the recogniser may learn from them")
    scenes = [from_json(line) for path in files for line in path.with_suffix(".jsonl").read_text().splitlines()]
    return [np.load(path, mmap_mode="r") for path in files], scenes


def load_masks(folders: Path | Sequence[Path]) -> list[NDArray[np.uint8]]:
    """Where the subjects of load_chunks' pictures are, in the same order: memory-mapped, eight pixels a byte."""
    return [np.load(path.with_suffix(".masks.npy"), mmap_mode="r") for path in _finished(folders)]


def _finished(folders: Path | Sequence[Path]) -> list[Path]:
    """The pictures of every finished chunk."""
    files: list[Path] = []
    for folder in [folders] if isinstance(folders, Path) else folders:
        found = sorted(path for path in folder.glob("[0-9]*.npy") if path.stem.isdigit())
        if not found:
            raise ValueError(f"{folder} holds no drawn chunks; run python -m train.miniature.data --out {folder} first")
        files += found
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/data"))
    parser.add_argument("--world", choices=WORLDS, default="small")
    parser.add_argument("--count", type=int, default=40000, help="pictures, rounded up to complete chunks of 1000")
    parser.add_argument("--seed", type=int, default=STREAMS["training"])
    parser.add_argument(
        "--shares", type=float, nargs=3, default=SHARES, metavar=SCENE_KINDS, help="of the pictures, adding up to 1"
    )
    parser.add_argument("--unseen", action="store_true", help="draw the looks kept out of training: for the recogniser")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    shares = tuple(args.shares)
    try:
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"the shares are {shares}; give three that add up to 1")
        claim(args.out, args.world, args.seed, shares, args.unseen)
    except ValueError as error:
        parser.error(str(error))
    chunks = range(-(-args.count // CHUNK_SIZE))
    here = args.world, args.seed, shares, args.unseen
    missing = [(*here, i, args.out) for i in chunks if not (args.out / f"{i:05d}.npy").exists()]
    with Pool(args.workers) as pool:
        for _ in tqdm(pool.imap_unordered(draw_chunk, missing), total=len(missing), unit="chunk"):
            pass


if __name__ == "__main__":
    main()
