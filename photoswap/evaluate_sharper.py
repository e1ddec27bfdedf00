"""Measure what makes concepts sharper, on the drawn world: python -m photoswap.evaluate_sharper --out runs/sharper

Subjects that the miniature never saw are learnt with each option of docs/sharper.md, from the same references with the
same seed and as many steps, and swapped into scenes of the development stream. Printed are means over subjects, and
what each option changes against learning without it: the mean of paired differences, with the 2.5 and 97.5 % points of
10,000 bootstrap draws of subjects. Fewer than six subjects tell no sign apart from chance, whatever the points say.

What is learnt and scored is kept in --out, a file a subject and option; an interrupted run goes on from there, and
--shard 1/2 and 2/2 share the work between two processes.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from models.images import grid, load_image
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.scores import inside, overlap
from photoswap.benchmark.tasks import Task, draw_task
from photoswap.demo import score, swap_in
from photoswap.masks import find_subject
from train.concepts import Concept, apply_concept
from train.config import DreamBoothConfig, dreambooth_config
from train.learn import learn
from train.recogniser import RECOGNISER_FILE, Recogniser, load_recogniser, recognise_subjects
from train.world import Look, render
from weights import fingerprint
from weights.atomic import atomic
from weights.load import load

PLAIN = "plain"
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "masked loss": {"mask_loss": True},
    "attention loss": {"attention_loss": 0.01},
    "both losses": {"mask_loss": True, "attention_loss": 0.01},
    "token first": {"token_steps": 0.25},  # a share of all steps
    "min-SNR": {"min_snr": 5.0},
}
UNITS = {  # by name: its unit, and how many digits
    "subject": ("dB", 2),
    "colours": ("", 3),
    "background": ("dB", 2),
    "word's mask": ("IoU", 3),
    "look": ("", 2),
}
BOOTSTRAPS = 10_000
FURTHER = 10_000  # tasks from here on give further scenes


def scenes_of(number: int, count: int) -> list[Task]:
    """Benchmark task 2 x number, and the same swap in so many scenes in all: another pose and place each.

    Even tasks swap within a species, so that the prompts differ by the token alone.
    """
    first = draw_task("dev", "single", 2 * number)
    scenes = [draw_task("dev", "single", FURTHER + 2 * number + 1000 * i).scene for i in range(1, count)]
    scenes = [scene.with_look(first.scene.look) for scene in scenes]
    look = first.subject
    return [first, *(replace(first, scene=s, source=render(s), truth=render(s.with_look(look))) for s in scenes)]


def learnt(model: StableDiffusion, task: Task, option: str, steps: int, home: Path) -> Concept:
    """The task's newcomer, learnt with that option."""
    config = configuration(task.subject.species, option, steps)
    masks = [drawn.mask for drawn in task.newcomers[0].pictures] if config.wants_masks else None
    return learn(model, task.references, config, masks=masks, progress=False, class_folder=home / "class")


def configuration(species: str, option: str, steps: int) -> DreamBoothConfig:
    """The miniature's preset with that option, and the token first only where that is the option."""
    changes = {"token_steps": 0.0, **OPTIONS[option]}
    changes["token_steps"] = round(changes["token_steps"] * steps)
    return dreambooth_config("miniature", species, steps=steps, **changes)


def scored_swap(model: StableDiffusion, task: Task, token: str) -> tuple[dict[str, float], Image.Image]:
    """The scores of one swap by the model with the concept, and its picture."""
    outcome = score(task, swap_in(model, task, token))
    near, colours = outcome.subject
    found = find_subject(model, task.truth.image, outcome.swapped.settings["target_prompt"], token).mask
    scores = {"subject": near, "colours": colours, "background": outcome.background}
    scores["word's mask"] = overlap(inside(found), inside(task.truth.mask))
    return scores, outcome.swapped.result


def kept_scores(
    model: StableDiffusion, number: int, option: str, scenes: int, steps: int, home: Path
) -> dict[str, Any]:
    """Scores of one subject with one option, from the file they are kept in, or learnt, swapped and put there."""
    about = {
        "model": fingerprint(model),
        "subject": number,
        "scenes": scenes,
        "steps": steps,
        "option": OPTIONS[option],
    }
    stem = home / _stem(number, option)
    kept = stem.with_suffix(".json")
    if kept.is_file() and (found := json.loads(kept.read_text()))["about"] == about:
        return found
    tasks = scenes_of(number, scenes)
    concept = learnt(model, tasks[0], option, steps, home)
    ready = apply_concept(model, concept)
    results = [scored_swap(ready, task, concept.token) for task in tasks]
    for i, (_, picture) in enumerate(results):
        with atomic(Path(f"{stem}-{i}.png")) as place:
            picture.save(place, format="PNG")
    found = {"about": about, "scores": [scores for scores, _ in results]}
    with atomic(kept) as place:
        place.write_text(json.dumps(found, indent=1))
    return found


def look_seen(recogniser: Recogniser, look: Look, picture: Image.Image, mask: Image.Image) -> float:
    """The share of a look's colours, pattern and accessory that the recogniser sees where the mask is."""
    seen = recognise_subjects(recogniser, [picture], [mask])[0]
    wanted = {"colour": look.colour, "pattern": look.pattern, "accessory": look.accessory or "none"}
    if look.pattern != "plain":
        wanted["second"] = look.second
    if look.accessory:
        wanted["accessory_colour"] = look.accessory_colour
    return float(np.mean([seen[name] == value for name, value in wanted.items()]))


def _interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The mean of paired differences, and the 2.5 and 97.5 % points of it over bootstrap draws of them."""
    values = np.asarray(differences, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(values), size=(BOOTSTRAPS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def options_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """The lines of a table: by option the scores of every subject, the same subjects in the same order."""
    names = list(found[PLAIN][0])
    yield "| option | " + " | ".join(f"{name} {UNITS[name][0]}".strip() for name in names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for option, rows in found.items():
        cells = []
        for name in names:
            digits = UNITS[name][1]
            told = f"{np.mean([row[name] for row in rows]):.{digits}f}"
            if option != PLAIN:
                changes = [row[name] - plain[name] for row, plain in zip(rows, found[PLAIN], strict=True)]
                mean, low, high = _interval(changes)
                told += f" ({mean:+.{digits}f}; {low:+.{digits}f} to {high:+.{digits}f})"
            cells.append(told)
        yield f"| {option} | " + " | ".join(cells) + " |"


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By name, the mean over a subject's scenes."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def with_looks(found: dict[str, list[dict[str, float]]], home: Path, scenes: int) -> None:
    """Add what the recogniser says of the pictures."""
    recogniser = load_recogniser()
    for number in range(len(found[PLAIN])):
        tasks = scenes_of(number, scenes)
        for option, rows in found.items():
            files = [home / f"{_stem(number, option)}-{i}.png" for i in range(scenes)]
            seen = [
                look_seen(recogniser, task.subject, load_image(file), task.truth.mask)
                for task, file in zip(tasks, files, strict=True)
            ]
            rows[number]["look"] = float(np.mean(seen))


def options_grid(home: Path, options: Sequence[str], subjects: int) -> Image.Image:
    """A row a subject: a reference, the source, the first swap with each option, the truth."""
    rows: list[Image.Image] = []
    for number in range(subjects):
        tasks = scenes_of(number, 1)
        swapped = [load_image(home / f"{_stem(number, option)}-0.png") for option in options]
        rows += [tasks[0].references[0], tasks[0].source.image, *swapped, tasks[0].truth.image]
    big = [picture.resize((192, 192), Image.Resampling.LANCZOS) for picture in rows]
    return grid(big, ["reference", "source", *options, "truth"] * subjects, columns=len(options) + 3)


def _stem(number: int, option: str) -> str:
    return f"{number:02}-{option.replace(' ', '-')}"


def _shard(text: str) -> tuple[int, int]:
    which, of = map(int, text.split("/"))
    if not 1 <= which <= of:
        raise ValueError
    return which, of


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--scenes", type=int, default=2, help="of each subject")
    parser.add_argument("--steps", type=int, default=170, help="of learning")
    parser.add_argument("--options", nargs="+", choices=tuple(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--shard", type=_shard, default=(1, 1), help="which part of the work of how many: 1/2, say")
    parser.add_argument("--out", type=Path, default=Path("runs/sharper"))
    args = parser.parse_args(arguments)
    model = load(args.model, "cpu", torch.float32)
    which, of = args.shard
    options = [PLAIN, *(option for option in args.options if option != PLAIN)]
    cells = [(number, option) for number in range(args.subjects) for option in options]
    cells = cells[which - 1 :: of]
    found: dict[str, list[dict[str, float]]] = {option: [] for option in options}
    for number, option in tqdm(cells, "subjects and options"):
        found_here = kept_scores(model, number, option, args.scenes, args.steps, args.out)
        found[option].append(means(found_here["scores"]))
    if of > 1:
        return
    if RECOGNISER_FILE.is_file():
        with_looks(found, args.out, args.scenes)
    print(f"{args.subjects} subjects, {args.scenes} scenes each, {args.steps} steps of learning.")
    print(f"In brackets: against {PLAIN}, the mean of paired differences and its 95 % interval.\n")
    print("\n".join(options_table(found)))
    with atomic(args.out / "pictures.png") as place:
        options_grid(args.out, options, args.subjects).save(place, format="PNG")


if __name__ == "__main__":
    main()
