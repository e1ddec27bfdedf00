"""Learn a concept from each folder of a folder: `photoswap learn --each`.

Of several processes (torchrun) each learns every so-manieth concept by itself. A concept that is there already is left
alone, one whose learning was interrupted goes on, and one that fails does not keep the others from being learnt.
"""

import argparse
import sys
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from photoswap.commands.outputs import say

if TYPE_CHECKING:
    from models.stable_diffusion import StableDiffusion

CLASS_FILE = "class.txt"  # beside the pictures: what they show, where it is not what --class says


def concept_folders(folder: Path) -> list[Path]:
    """The folders in it, by name, but hidden ones. Raises ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"--each wants a folder that has a folder of pictures for each concept; {folder} is none")
    found = sorted(inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} has no folders; --each wants one of pictures in it for each concept")
    return found


def arguments_for(arguments: argparse.Namespace, folder: Path, checkpoint: str) -> argparse.Namespace:
    """What `photoswap learn` would be told for this folder alone."""
    from train.data import MASK_ENDING

    own = copy(arguments)
    own.out = arguments.out / folder.name
    own.resume = not arguments.overwrite and (own.out / checkpoint).is_file()
    visible = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    own.references = [file for file in visible if file.name != CLASS_FILE and not file.stem.endswith(MASK_ENDING)]
    if not own.references:
        raise ValueError(f"{folder} is an empty folder; put 3 to 5 pictures of the subject into it")
    if (folder / CLASS_FILE) in visible:
        own.class_word = _class_word(folder / CLASS_FILE)
    return own


def _class_word(file: Path) -> str:
    try:
        word = " ".join(file.read_text(encoding="utf-8").split())
    except UnicodeDecodeError:
        word = ""
    if not word:
        raise ValueError(f"{file} has no words; want what the pictures show: cat, for instance")
    return word


def tell_failures(failed: Mapping[str, str], count: int) -> None:
    """Raise ValueError where some of so many concepts were not learnt."""
    if failed:
        raise ValueError(
            f"{len(failed)} of {count} concepts were not learnt: {', '.join(sorted(failed))}; the others are there, "
            "and the same command learns what is missing"
        )


def run_each(arguments: argparse.Namespace) -> None:
    """Learn all that is not there yet. Raises ValueError at the end if some could not be learnt, naming them."""
    import torch

    from photoswap.commands.common import load_model
    from train.parallel import Team

    folders = concept_folders(arguments.each)
    model = load_model(arguments, "float32")
    team = Team.join(torch.device("cpu"))  # they tell each other what failed, no more
    failed: dict[str, str] = {}
    for folder in folders[team.rank :: team.count]:
        try:
            _learn_one(arguments, folder, model, alone=team.count == 1)
        except (ValueError, OSError) as error:
            failed[folder.name] = str(error)
            say(f"photoswap: {folder.name}: {error}", sys.stderr)
    tell_failures({name: told for one in team.gather(failed) for name, told in one.items()}, len(folders))


def _learn_one(arguments: argparse.Namespace, folder: Path, model: "StableDiffusion", alone: bool) -> None:
    """Learn the concept of one folder unless it is there. alone: whether nobody else shows progress."""
    from photoswap.commands.learn import check, learn_lesson, read_lesson
    from photoswap.commands.learn_flags import CHECKPOINT, CONCEPTS
    from train.parallel import ALONE

    own = arguments_for(arguments, folder, CHECKPOINT)
    concept = own.out / CONCEPTS[own.method]
    if concept.is_file() and not own.overwrite and not own.resume:
        say(f"{concept} is there already")
        return
    check(own)
    own.quiet = own.quiet or not alone
    learn_lesson(own, model, read_lesson(own), ALONE)
