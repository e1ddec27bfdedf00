"""Learn, invert, swap, find: the library's long calls, each told of by a job and ended by it, for one browser tab."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from models.images import load_image, load_mask
from models.stable_diffusion import StableDiffusion
from photoswap.commands import invert as invert_command
from photoswap.commands import learn as learn_command
from photoswap.commands import swap as swap_command
from photoswap.commands.common import GUIDANCE, guidance_for, read_concepts, seed_for
from photoswap.commands.outputs import write_together
from photoswap.commands.subjects import check_masked, check_words, make_rounds, seen
from photoswap.commands.swap_files import GRID, RECORD, RESULT, Swapped, make_grid, make_record
from photoswap.commands.swap_flags import check_wants, make_method
from photoswap.inversion import Inversion, invert_image
from photoswap.method import Method
from photoswap.pipeline import SwapRequest, swap_all

from .desk import Job
from .forms import InvertForm, LearnForm, SwapForm, command_line
from .previews import Previews, Progress
from .session import Session


def learn_concept(session: Session, job: Job, form: LearnForm | None) -> str:
    """Learn a concept, or go on with the one that was stopped (None); returns what it is called.

    Raises StoppedError when the job is stopped, once the checkpoint is written; ValueError for what cannot be learnt.
    """
    from photoswap import learn
    from train.concepts import open_concept
    from train.data import read_pictures

    if form is None:
        if session.learning is None:
            raise ValueError("there is no learning to go on with; press Learn")
        form, out = session.learning
    else:
        session.learning, session.samples, out = None, [], session.folder.new_folder("concept")
    resume = (out / learn_command.CHECKPOINT).is_file()
    words, arguments = session.command(form.words(out, resume))
    learn_command.check(arguments)
    job.tell("Loading the model", 0.0)
    model = session.shelf.model(dtype="float32")
    config = learn_command.configure(arguments, model.config.name)
    session.learning = form, out
    progress = Progress(job, "Learning", config.steps)

    def show(step: int, picture: Image.Image) -> None:
        session.samples.append((picture, f"step {step}"))

    job.tell("Looking at the pictures, and drawing others of the class to hold on to")
    pictures = read_pictures(form.references)
    learn(model, pictures, config, out, progress=False, resume=resume, on_step=progress.loss, on_sample=show)
    session.learning = None
    session.lines["learn"] = command_line([word for word in words if word != "--resume"])
    path = next(file for file in sorted(out.glob("*.safetensors")) if file.name != learn_command.CHECKPOINT)
    name = f"{open_concept(path).subject or form.class_word} ({out.name})"
    session.concepts[name] = str(path)
    return name


def invert_picture(session: Session, job: Job, form: InvertForm) -> float:
    """Invert the source, keep the inversion and its file; returns the seconds it took."""
    start = time.perf_counter()
    path = session.folder.new("inversion", ".safetensors")
    words, arguments = session.command(form.words(path))
    invert_command.check(arguments)
    job.tell("Loading the model")
    model = session.shelf.model(form.concept)
    picture = load_image(form.source)
    progress = Progress(job, "Inverting", form.steps)
    inversion = invert_image(
        model,
        picture,
        arguments.prompt,
        invert_command.inversion_for(arguments.inversion),
        form.steps,
        guidance_for(model, arguments.guidance),
        on_step=progress.named,
    )
    write_together({path: inversion.save})
    session.inversion = inversion, path
    session.lines["invert"] = command_line(words)
    return time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class Done:
    """A swap that was done. source, result: at the source's resolution. folder: its files. line: the command again."""

    source: Image.Image
    result: Image.Image
    folder: Path
    line: str
    seconds: float


def swap_subject(session: Session, job: Job, form: SwapForm) -> Done:
    """Swap, and write the three files that `photoswap swap` writes; previews are told on the way."""
    out = session.folder.new("result")
    _, arguments = session.command(form.words(out))
    swap_command.check(arguments)
    clock = {"load": 0.0, "invert": 0.0}
    with swap_command.timed(clock, "load"):
        asked = Asked.of(session, job, form, arguments)
    previews = Previews(asked.model, Progress(job, "Swapping", asked.method.steps - asked.method.first))
    (result,) = swap_all(asked.model, [asked.request], on_moment=previews)
    clock |= result.timings
    picture = seen(asked.model, asked.inversion)
    swapped = Swapped(asked.inversion, result, (0, 0, *picture.size), result.result)
    seed = seed_for(arguments.seed) if asked.method.draws else asked.inversion.seed
    write_together({out / name: content for name, content in _files(arguments, swapped, clock, seed).items()})
    again, _ = session.command(form.words(out.with_name(f"{out.name}-again")))  # `out` is taken now
    session.lines["swap"] = command_line(again)
    session.done = result.result, asked.request.target_prompt
    return Done(picture, result.result, out, session.lines["swap"], sum(clock.values()))


def _files(arguments: argparse.Namespace, swapped: Swapped, clock: dict[str, float], seed: int | None) -> dict:
    import json

    record = make_record(arguments, [swapped], clock, seed)
    return {RESULT: swapped.picture, GRID: make_grid([swapped], False), RECORD: json.dumps(record, indent=2) + "\n"}


@dataclass(frozen=True, eq=False)
class Asked:
    """A form made into a request, by the functions that the command makes one with."""

    model: StableDiffusion
    inversion: Inversion
    method: Method
    request: SwapRequest

    @classmethod
    def of(cls, session: Session, job: Job, form: SwapForm, arguments: argparse.Namespace) -> "Asked":
        if session.inversion is None:
            raise ValueError("the picture is not inverted yet; press Invert first")
        inversion, _ = session.inversion
        check_masked(arguments, make_method(arguments, inversion, GUIDANCE))
        concepts = [concept for concept, _ in read_concepts(arguments.concept)]
        ((turn,),) = make_rounds(arguments, inversion, [concepts])
        job.tell("Loading the model")
        model = session.shelf.model(form.concept)
        check_words(model, [turn])
        method = make_method(arguments, inversion, guidance_for(model, arguments.guidance))
        check_wants(arguments, method)
        request = SwapRequest(
            inversion,
            turn.target,
            method,
            source_prompt=turn.source,
            source_word=turn.source_word,
            target_word=turn.target_word,
            mask=load_mask(form.mask) if form.mask else None,
            adain=arguments.adain,
            seed=seed_for(arguments.seed),
        )
        return cls(model, inversion, method, request)
