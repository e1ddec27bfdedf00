"""Learning a concept: a few pictures of a subject, and a word comes to mean it.

One loop for every method (train/methods); what a step does is in train/learner.py. Here is what surrounds the steps:
pictures in, progress, checkpoints, the concept out.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.stable_diffusion import StableDiffusion
from models.threads import in_suited_threads
from train.concepts import Concept
from train.config import FREE, LearnConfig
from train.data import CentreCrops, Examples, PictureSource, Stream, Together, mirrored, read_pictures
from train.encoded import Encoded
from train.interrupt import deferring_ctrl_c
from train.learner import Learner, check_state
from train.memory import recomputes
from train.methods import method_of
from train.parallel import ALONE, Team
from train.prior import SampleSettings, class_key, class_pictures, sample_pictures
from train.rates import falls
from train.ready import ready_to_learn
from train.reference_masks import read_masks
from train.run_file import RUN_KIND, RunRecord, read_run, write_run
from train.token_first import token_steps
from weights import fingerprint, mismatch
from weights.atomic import atomic, check_space, clear
from weights.records import listed, quoted, shown

CHECKPOINT_FILE, CLASS_FOLDER, SAMPLE_FOLDER = "checkpoint.safetensors", "class", "samples"
ENCODED_FILE, CLASS_ENCODED_FILE = "checkpoint.encoded.safetensors", "encoded.safetensors"
OneSubject: TypeAlias = PictureSource | Sequence[PictureSource]
References: TypeAlias = OneSubject | Mapping[str, OneSubject]
AVERAGED_LOSSES = 20  # losses averaged in the progress bar: one alone says more of its timestep than of progress


@dataclass(frozen=True)
class Watch:
    """Where a run leaves its traces, and who is told of its steps and samples."""

    folder: Path | None
    progress: bool
    on_step: Callable[[int, float], None] | None
    on_sample: Callable[[int, Image.Image], None] | None


@in_suited_threads
def learn(
    model: StableDiffusion,
    references: References,
    config: LearnConfig,
    out: str | Path | None = None,
    *,
    progress: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    keep_checkpoint: bool = False,
    class_folder: str | Path | None = None,
    masks: PictureSource | Sequence[PictureSource] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_sample: Callable[[int, Image.Image], None] | None = None,
    team: Team = ALONE,
) -> Concept:
    """Learn a concept from pictures. The model is trained in place, and is afterwards as it was: see `apply_concept`.

    references: a folder, files or pictures of the subject, 3 to 5 of them; for a configuration of several subjects
    those of each by its token. config: of the method to learn by. out: a
    folder for the concept, whose file the method names, for checkpoint.safetensors and samples/; None writes nothing.
    resume: go on from the checkpoint in `out`, bit for bit as if never stopped, wherever the device adds up in the same
    order each time. overwrite: begin anew although `out` has a concept, or a checkpoint to resume from.
    keep_checkpoint: leave the checkpoint there when done, with two numbers beside each that learns; else it goes.
    class_folder: where class pictures are kept, for many concepts to share; None takes class/ in `out`. masks: of
    the references, where the configuration asks for them (`read_masks`). on_step: told the step, from 1, and its loss.
    on_sample: given the step and a picture. team: the processes that learn together, each with `batch` rows a step; all
    get the concept, and the first alone writes, shows progress and tells.

    Ctrl-C is honoured between two steps: the checkpoint is written, if there is an `out`, and KeyboardInterrupt raised.
    Raises ValueError, before anything is written, when the model is not float32, for a size that does not suit the
    model, for references that are no pictures, when there is nothing to resume or it was begun otherwise, when `out`
    has an earlier concept, and when there is no room for this one; OSError when `out` cannot be written.
    """
    if team.shards and config.moments != "float32":
        raise ValueError("moments in 8bit are of whole weights, not of processes' pieces; leave shard or moments out")
    config = team.together(config)
    size = config.size or model.config.native_size
    _check(model, size)
    method = method_of(config)
    shapes = method.shapes(model, config)
    cut = team.cut(model, shapes)
    place = None if out is None else Path(out)
    watch = Watch(place, progress, on_step, on_sample) if team.leads else Watch(None, False, None, None)
    _check_folders(place, method.file, class_folder, overwrite or resume)
    numbers = sum(math.prod(shape) for shape in shapes.values())
    _check_room(model, config, watch.folder, numbers)
    encoded = Encoded(fingerprint(model), place and place / ENCODED_FILE, known=resume)
    examples = _examples(model, config, size, references, masks, encoded)
    if watch.folder:
        clear(watch.folder, watch.folder / SAMPLE_FOLDER)  # of what a killed run left half written
    mine = replace(config, batch=config.batch // team.count)
    config = replace(config, gradient_checkpointing=recomputes(model, mine, size, len(examples), numbers))
    settings = {**config.settings(), "size": size}
    about = RunRecord(fingerprint(model), examples.digest(), settings, 0)
    drawn = config.class_pictures * len(config.class_texts)
    counts = {"instances": len(examples), **({"classes": drawn} if drawn else {})}
    saved = _saved(model, config, place, about, shapes, counts) if resume else None
    home = class_folder or (place and place / CLASS_FOLDER)
    classes = _classes(model, config, size, home, watch.progress) if config.prior_weight else None
    instances = Stream(examples, model.schedule.train_steps, config.seed)
    with team.spread(model, cut) as learning, ready_to_learn(learning, config) as placed:
        learner = Learner(learning, config, placed, instances, classes, team, encoded)
        if saved is not None:
            learner.restore(*saved)
        _run(learner, size, about, watch)
        concept = _concept(learner, about)
    if watch.folder:
        method.save(concept, watch.folder / method.file, model, getattr(torch, config.concept_dtype))
        if not keep_checkpoint:
            for file in (CHECKPOINT_FILE, ENCODED_FILE):
                (watch.folder / file).unlink(missing_ok=True)
    return concept


def _check(model: StableDiffusion, size: int) -> None:
    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the model is in {model.dtype}, where steps of the optimizer round to nothing; load it in float32 "
            "(bfloat16=True in the configuration saves time and memory)"
        )
    if size < 1 or size % model.config.granularity:
        raise ValueError(
            f"size is {size}; {model.config.name} learns from squares whose side is a multiple of "
            f"{model.config.granularity}"
        )


def _check_folders(out: Path | None, file: str, classes: str | Path | None, again: bool) -> None:
    """Raise ValueError unless what is learnt may be written there. again: over what an earlier run left there."""
    for folder in (out, Path(classes) if classes else None):
        if folder and not next(parent for parent in (folder, *folder.absolute().parents) if parent.exists()).is_dir():
            raise ValueError(f"{shown(folder)} is a file or below one; name a folder")
    if out is None:
        return
    if not again and (out / CHECKPOINT_FILE).exists():
        raise ValueError(f"{shown(out)} has the checkpoint of a run to resume; resume it, or overwrite it")
    if not again and (out / file).exists():
        raise ValueError(f"{shown(out)} has a concept already; choose another folder, or overwrite it")


def _check_room(model: StableDiffusion, config: LearnConfig, out: Path | None, numbers: int) -> None:
    """Raise ValueError unless so many learnt numbers fit on the disk, with two moments each in a checkpoint."""
    if out is not None:
        kept = numbers * getattr(torch, config.concept_dtype).itemsize
        check_space(out, kept + 3 * numbers * model.dtype.itemsize * bool(config.checkpoint_every))


def _examples(
    model: StableDiffusion,
    config: LearnConfig,
    size: int,
    references: References,
    masks: PictureSource | Sequence[PictureSource] | None,
    encoded: Encoded,
) -> Examples:
    """The references as they are shown, with their masks where those have a say."""
    if masks is not None and not config.wants_masks:
        raise ValueError("masks change nothing without mask_loss or attention_loss; ask for one of them, or give none")
    given = _by_token(references, config)
    subjects = [read_pictures(given[token]) for token in config.tokens]
    found = read_masks(given[config.token], masks) if config.wants_masks else None
    if config.mirror:
        subjects, found = [mirrored(one) for one in subjects], None if found is None else mirrored(found)
    return method_of(config).examples(model, config, size, subjects, found, encoded)


def _by_token(references: References, config: LearnConfig) -> Mapping[str, OneSubject]:
    """The references of every subject. Raises ValueError unless there are some of each."""
    if not isinstance(references, Mapping):
        if len(config.tokens) > 1:
            raise ValueError(
                f"the subjects are {listed(config.tokens)}, and the references are of one; give those of each by its "
                "token, {token: folder}"
            )
        return {config.token: references}
    if set(references) != set(config.tokens):
        raise ValueError(f"the references are of {listed(references)}; want those of {listed(config.tokens)}")
    return references


def _classes(
    model: StableDiffusion, config: LearnConfig, size: int, folder: str | Path | None, progress: bool
) -> Stream:
    """Rows of class pictures, which the model draws before it learns, unless they are in that folder already."""
    home = Path(folder) if folder else None
    settings = replace(_sample_settings(config, size), seed=0)  # the same for every concept, whatever its seed
    number, batch, drawn = config.class_pictures, config.class_batch, []
    for text in config.class_texts:
        pictures = class_pictures(model, text, number, settings, home, batch=batch, progress=progress)
        file = home / class_key(model, text, settings) / CLASS_ENCODED_FILE if home else None
        encoded = Encoded(fingerprint(model), file)
        drawn.append(CentreCrops(model, pictures, size, config.sample_latents, encoded=encoded))
        with suppress(OSError):  # the folder may be shared, and of somebody else
            encoded.keep()
    return Stream(Together(drawn), model.schedule.train_steps, config.seed + 1)


def _sample_settings(config: LearnConfig, size: int) -> SampleSettings:
    return SampleSettings(size, config.class_steps, config.class_guidance, config.seed, config.bfloat16)


def _saved(
    model: StableDiffusion,
    config: LearnConfig,
    folder: Path | None,
    about: RunRecord,
    shapes: Mapping[str, tuple[int, ...]],
    pictures: Mapping[str, int],
) -> tuple[dict[str, Tensor], int]:
    """The state to resume from and the steps behind it, once it is sure that it is of this run."""
    if folder is None or not (folder / CHECKPOINT_FILE).is_file():
        raise ValueError(f"there is nothing to resume: no {CHECKPOINT_FILE} in {folder}; start without resume")
    state, begun = read_run(folder / CHECKPOINT_FILE)
    where = f"the run in {shown(folder)}"
    if told := mismatch(model, begun.base):
        raise ValueError(
            f"{where} was begun with another model, and {told}; resume it with that, or use another folder"
        )
    if begun.pictures != about.pictures:
        raise ValueError(f"{where} was begun with other references; resume it with those, or use another folder")
    theirs, ours = begun.settings, about.settings
    free = set(FREE) - ({"steps"} if falls(config) else set())
    changed = [k for k in ours if k not in free and theirs.get(k) != ours[k]]
    if changed:
        told = "; ".join(f"{k} was {quoted(theirs.get(k))} and is {quoted(ours[k])}" for k in changed[:5])
        raise ValueError(f"{where} was begun otherwise: {told}; resume it with what it had")
    if begun.done > config.steps:
        raise ValueError(f"{where} has {begun.done} steps behind it, more than the {config.steps} asked for")
    try:
        check_state(shapes, state, begun.done, pictures, token_steps(config), config.moments)
    except ValueError as error:
        raise RUN_KIND.damaged(folder / CHECKPOINT_FILE, error) from None
    return state, begun.done


def _run(learner: Learner, size: int, about: RunRecord, watch: Watch) -> None:
    """Step until done. Interrupted, it leaves a checkpoint, unless a second Ctrl-C came during a step."""
    config, recent = learner.config, deque[float](maxlen=AVERAGED_LOSSES)
    bar = tqdm(total=config.steps, initial=learner.done, desc=f"learning {config.token!r}", disable=not watch.progress)
    try:
        with bar, deferring_ctrl_c(learner.team.count > 1) as interrupted:
            while learner.done < config.steps:
                recent.append(learner.step())
                bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}", refresh=False)
                bar.update()
                if watch.on_step:
                    watch.on_step(learner.done, recent[-1])
                if _due(learner.done, config.sample_every):
                    _show(learner, size, watch)
                if _due(learner.done, config.checkpoint_every):
                    _keep(learner, about, watch)
                if learner.team.any(interrupted(), learner.model.device):
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if learner.between_steps:
            _keep(learner, about, watch)
        raise


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _show(learner: Learner, size: int, watch: Watch) -> None:
    """Draw a picture with what has been learnt so far; its noise is its own, so learning does not notice."""
    config = learner.config
    picture = sample_pictures(
        learner.model, config.sample_prompt or config.instance_text, _sample_settings(config, size)
    )[0]
    if watch.on_sample:
        watch.on_sample(learner.done, picture)
    if watch.folder:
        with atomic(watch.folder / SAMPLE_FOLDER / f"{learner.done:05}.png") as temporary:
            picture.save(temporary, format="PNG")


def _keep(learner: Learner, about: RunRecord, watch: Watch) -> None:
    state = learner.state() if watch.folder or learner.team.shards else {}  # pieces come together from all processes
    if watch.folder:
        write_run(watch.folder / CHECKPOINT_FILE, state, replace(about, done=learner.done))
        if learner.encoded:
            learner.encoded.keep()


def _concept(learner: Learner, about: RunRecord) -> Concept:
    config = learner.config
    token, class_word = method_of(config).subject(config)
    return Concept(
        base=about.base,
        base_name=learner.model.config.name,
        token=token,
        class_word=class_word,
        instance_prompt=config.instance_text,
        class_prompt=config.class_text,
        settings=about.settings,
        changes=learner.placed.changes(),
        words=learner.placed.words(),
    )
