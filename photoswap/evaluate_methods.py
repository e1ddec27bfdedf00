"""The four ways of learning a concept, side by side: python -m photoswap.evaluate_methods

Each learns the demo's subject from the same four pictures of it, by its preset for the miniature; what it wrote is
opened again, and swapped into the demo's scene. Printed are how many numbers learnt, the seconds (those of a clock, and
those of processors, which a busy machine leaves as they are), the size of the file, and the demo's scores. What has
been learnt stays in --folder: interrupted, the same command goes on.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from models.images import grid
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.tasks import Task, make_task
from photoswap.demo import METHOD, Outcome, score
from photoswap.inversion import invert_image
from photoswap.methods import Method
from photoswap.pipeline import swap
from photoswap.turns import Swapping, turns
from train.concepts import Concept, apply_concept, open_concept
from train.config import CONFIGS, LearnConfig, learn_config
from train.learn import CHECKPOINT_FILE, CLASS_FOLDER, learn
from train.methods import method_of
from weights.atomic import atomic
from weights.load import load

SHOWN_SIDE = 256  # of each picture in the grid
SPENT_FILE = "seconds.json"


def learnt_file(model: StableDiffusion, task: Task, config: LearnConfig, folder: Path, progress: bool) -> Path:
    """The file of a concept learnt from the task's references; learnt before, or learnt now."""
    home, spent = folder / config.method, folder / config.method / SPENT_FILE
    file = home / method_of(config).file
    if file.is_file() and spent.is_file():
        return file
    clock, processors = time.perf_counter(), time.process_time()
    learn(
        model,
        task.references,
        config,
        home,
        progress=progress,
        resume=(home / CHECKPOINT_FILE).is_file(),
        overwrite=file.is_file(),
        class_folder=folder / CLASS_FOLDER,
    )
    seconds = {"clock": time.perf_counter() - clock, "processors": time.process_time() - processors}
    with atomic(spent) as place:
        place.write_text(json.dumps(seconds), encoding="utf-8")
    return file


def swapped_in(
    model: StableDiffusion, task: Task, concept: Concept, method: Method = METHOD, progress: bool = False
) -> Outcome:
    """The concept in the task's scene, called as it calls itself, and scored."""
    twin, word = apply_concept(model, concept), task.words[0]
    inversion = invert_image(twin, task.source.image, task.prompt, steps=method.steps, progress=progress)
    (turn,) = turns(task.prompt, [Swapping(word, concept.subject, concept.subject)])
    result = swap(twin, inversion, turn.target, method, source_word=word, target_word=concept.subject, progress=False)
    return score(task, result)


def row(name: str, model: StableDiffusion, config: LearnConfig, file: Path, outcome: Outcome) -> str:
    """One line of the table."""
    numbers = sum(tensor.numel() for name, tensor in open_concept(file).tensors.items() if not name.endswith("/alpha"))
    seconds = json.loads((file.parent / SPENT_FILE).read_text(encoding="utf-8"))
    near, palette = outcome.subject
    return (
        f"| {name} | {numbers:,} | {config.steps} | {seconds['clock']:.0f} | {seconds['processors']:.0f} | "
        f"`{file.name}`, {_size(file.stat().st_size)} | {outcome.background:.1f} dB | {near:.1f} dB | {palette:.0%} |"
    )


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def compare(
    model: StableDiffusion, configs: Sequence[LearnConfig], folder: Path, *, seed: int = 0, progress: bool = True
) -> Image.Image:
    """Learn, swap, print a line for each method as it is done; returns the grid."""
    task = make_task(seed)
    pictures, labels = [task.references[0], task.source.image], ["a reference", "source"]
    print("| method | numbers | steps | s | processor s | file | background | subject | colours |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    outcome = None
    for config in configs:
        file = learnt_file(model, task, config, folder, progress)
        outcome = swapped_in(model, task, open_concept(file), progress=progress)
        print(row(config.method, model, config, file, outcome), flush=True)
        pictures.append(outcome.swapped.result)
        labels.append(config.method)
    if outcome is not None:
        (near, palette), before = outcome.before, "the source's own subject"
        print(f"| {before} | | | | | | | {near:.1f} dB | {palette:.0%} |")
    pictures, labels = [*pictures, task.truth.image], [*labels, "truth"]
    return grid([picture.resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS) for picture in pictures], labels)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the methods on the miniature, and write the grid."""
    parser = argparse.ArgumentParser("photoswap.evaluate_methods", description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=tuple(CONFIGS), default=tuple(CONFIGS), metavar="NAME")
    parser.add_argument("--steps", type=int, help="of learning, for all (default: each method's own)")
    parser.add_argument("--folder", type=Path, default=Path("methods"), help="for concepts (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("methods.png"), help="the grid (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args(argv)
    model = load("miniature")
    changes = {} if arguments.steps is None else {"steps": arguments.steps}
    species = make_task().subject.species
    configs = [learn_config(name, "miniature", species, checkpoint_every=50, **changes) for name in arguments.methods]
    picture = compare(model, configs, arguments.folder, progress=not arguments.quiet)
    with atomic(arguments.out) as place:
        picture.save(place, format="PNG")


if __name__ == "__main__":
    main()
