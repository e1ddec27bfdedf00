"""No flag is parsed and ignored: every flag of every command, in every case, changes something or says why not.

A command is run twice, with the flag and without, over functions that only note how they are called. The table below
has to name every flag that the parser takes, so a new one cannot be forgotten.
"""

import argparse
import inspect
from dataclasses import fields, replace
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from command_line import files, paint
from PIL import Image
from tiny_model import tiny_model

from models.stable_diffusion import StableDiffusion
from photoswap.__main__ import build_parser, main
from photoswap.benchmark.judge import Judge
from photoswap.figures.attention import SeenMaps
from photoswap.figures.sweep import Cell, Sweep
from photoswap.inversion import Inversion, synthesize
from photoswap.masks import Found
from photoswap.paint_method import Told
from photoswap.painters import PaintResult
from photoswap.pipeline import SwapRequest, SwapResult
from train.memory import Memory, StepMemory

NOTHING = "changes nothing"
OF_PICTURE = ["swap", "in.png", "--prompt", "a photo of a dog"]
OF_PICTURE += ["--subject", "dog", "--target", "cat", "--out", "out"]
OF_REFERENCE = ["paint", "in.png", "--mask", "mask.png", "--reference", "refs/a.png", "--out", "out"]
COMMON = {
    "--model": ["elsewhere"],
    "--config": ["sd21"],
    "--prediction": ["eps"],
    "--device": ["banana"],  # refused as a device, as is "cake" as a method: it has been read
    "--seed": ["5"],
    "--out": ["other"],
    "--overwrite": [],
    "--quiet": [],
}
DTYPE = {"--dtype": ["bfloat16"]}
SPEED = {"--fast": [], "--tile": ["always"]}
SAMPLING = {**SPEED, "--steps": ["3"], "--guidance": ["2"], "--size": ["64"], "--concept": ["CONCEPT:0.5"]}
GENERATE = {**COMMON, **DTYPE, **SAMPLING, "--negative": ["rain"], "--out": ["other.png"]}
INVERT = {
    **{**COMMON, **DTYPE, **SAMPLING},
    **{"--prompt": ["a cat"], "--inversion": ["ddim"], "--reconstruction": ["again.png"]},
    "--out": ["other.safetensors"],
}
SWAP = {
    **{**COMMON, **DTYPE, **SAMPLING},
    **{"--prompt": ["my dog"], "--subject": ["photo"], "--target": ["fox"], "--target-prompt": ["my cat"]},
    **{
        "--mask": ["mask.png"],
        "--mask-word": ["dog"],
        "--crop": [],
        "--adain": [],
        "--reference": ["in.png"],
        "--reference-mask": ["mask.png"],
        "--reference-prompt": ["a cat"],
        "--inversion": ["ddim"],
        "--method": ["cake"],
        "--set": ["phi=4"],
        "--preset": ["official"],
        "--align": ["index"],
    },
    **{"--phi": ["3"], "--M": ["30"], "--A": ["3"], "--blend": ["0.5"], "--fractions": ["0.4", "0.2", "0.3"]},
}
MASK = {
    **{**COMMON, **DTYPE, "--out": ["other.png"]},
    **{"--word": ["photo"], "--prompt": ["my dog"], "--scale": ["2"], "--size": ["64"]},
}
PAINT = {
    **{**COMMON, **DTYPE},
    **{"--mask": ["other-mask.png"], "--box": ["1", "2", "30", "40"], "--word": ["dog"], "--word-model": ["sd15"]},
    **{"--reference": ["refs/b.png"], "--prompt": ["my cat"], "--negative": ["rain"], "--concept": ["CONCEPT:0.5"]},
    **{"--crop": [], "--redraw": [], "--sampler": ["ddim"], "--eta": ["0.5"], "--count": ["2"]},
    **{"--steps": ["3"], "--guidance": ["2"], "--size": ["64"], "--method": ["paste-denoise"]},
    **{"--set": ["t0=0.3"], "--reference-mask": ["refs/a.mask.png"], "--features": ["in.safetensors"]},
}
NO_NETWORK = ("--model", "--config", "--prediction", "--device", "--dtype", "--seed", "--steps", "--guidance", "--size")
ALONE = "not allowed with"  # one says where, and one what
SWEPT = ["--subject", "dog", "--target", "cat", "--set", "max_queries=16,64", "--out", "out"]
ATTENTION = {
    **{**COMMON, **DTYPE, **SAMPLING, "--prompt": ["my dog"], "--inversion": ["ddim"]},
    **{"--quantity": ["A"], "--at": ["1"], "--layers": ["up"], "--resolution": ["8"], "--components": ["2"]},
}
SWEEP = {
    **{**COMMON, **DTYPE, **SAMPLING, "--prompt": ["my dog"], "--inversion": ["ddim"], "--task": ["demo-1"]},
    **{"--subject": ["photo"], "--target": ["fox"], "--method": ["cake"], "--phi": ["1,2"], "--M": ["1"], "--A": ["3"]},
    **{"--set": ["align=index,tokens"], "--at-once": ["1"]},
}
AS_MANY = "want as many"  # targets, concepts and masks as subjects, where there are several
SWAP_REFUSED = {"--subject": AS_MANY, "--adain": "goes by a mask"}
SWAP_REFUSED |= dict.fromkeys(("--reference", "--reference-mask", "--reference-prompt"), NOTHING)  # with photoswap
LEARN = {
    **{**COMMON, **DTYPE},
    **{"--class": ["dog"], "--token": ["xyz"], "--steps": ["3"], "--batch": ["2"], "--accumulate": ["2"]},
    **{"--learning-rate": ["0.1"], "--prior-weight": ["0.5"], "--class-pictures": ["3"], "--class-folder": ["kept"]},
    **{
        "--size": ["64"],
        "--mirror": [],
        "--random-crop": [],
        "--gradient-checkpointing": [],
        "--low-memory": [],
        "--dry-run": [],
        "--sample-every": ["2"],
    },
    **{"--checkpoint-every": ["2"], "--concept-dtype": ["float16"], "--resume": [], "--keep-checkpoint": []},
    **{"--method": ["lora"], "--preset": ["script"], "--train-text-encoder": [], "--text-learning-rate": ["0.1"]},
    **{
        "--scale-learning-rate": [],
        "--rate-schedule": ["linear"],
        "--rank": ["2"],
        "--alpha": ["2"],
        "--layers": ["linear"],
    },
    **{
        "--token-steps": ["1"],
        "--token-learning-rate": ["0.1"],
        "--mask-loss": [],
        "--attention-loss": ["0.1"],
        "--min-snr": ["5"],
        "--masks": ["masks"],
        "--mask-word": ["dog"],
    },
    **{"--init-word": ["dog"], "--tokens-per-word": ["2"], "--zoom": ["--no-zoom"], "--also": ["refs", "dog", "<b>"]},
    "--whole-attention": [],
}
OF_WORDS, OF_CUSTOM = ("--init-word", "--tokens-per-word"), ("--zoom", "--also", "--whole-attention")
OF_TEXT, OF_CLASS = ("--train-text-encoder", "--text-learning-rate"), ("--class-pictures", "--class-folder")
OF_MASKS = ("--masks", "--mask-word", "--token-learning-rate")
OF_LORA = ("--rank", "--alpha", "--layers")
WEB = {**COMMON, **DTYPE, "--port": ["8000"], "--host": ["::1"], "--open": [], "--concept": ["CONCEPT:0.5"]}
for absent in ("--seed", "--overwrite", "--quiet"):
    del WEB[absent]
WHAT = {"--config": ["sd21"], "--prediction": ["eps"]}
CONVERT = {**WHAT, "--layout": ["folder"], "--dtype": ["float16"], "--concept": ["CONCEPT:0.5"], "--overwrite": []}
FETCH = {"--mirror": ["http://localhost"], "--offline": [], "--cache": ["there"], "--quiet": []}
EVALUATE = {
    **{**COMMON, "--tasks": ["2"], "--split": ["test"], "--kind": ["pair"], "--shard": ["0/2"]},
    **{"--methods": ["plain"], "--inversions": ["ddim"], "--concepts": ["lora"], "--settings": ["tuned"]},
    **{"--masks": ["true"], "--steps": ["3"], "--guidance": ["2"], "--learning-steps": ["3"]},
    **{"--cache": ["there"], "--recogniser": ["in.safetensors"]},
    **{"--painter": ["elsewhere"], "--features": ["in.safetensors"]},
    **{"--cocoee": ["."], "--real": ["refs"], "--mixture": ["in.safetensors"], "--words": ["words.txt"]},
}
ON_COCOEE = ["evaluate", "--cocoee", "bench", "--real", "refs", "--out", "out"]
OF_COCOEE = dict.fromkeys(("--real", "--mixture", "--words"), NOTHING)
OF_WORLD = ("--split", "--kind", "--inversions", "--concepts", "--settings", "--masks", "--learning-steps", "--cache")

# a case: its line, its flags with a value that changes something, and those refused, with a part of the sentence
CASES: dict[str, tuple[list[str], dict[str, list[str]], dict[str, str]]] = {
    "evaluate": (
        ["evaluate", "--methods", "photoswap", "--out", "out"],
        EVALUATE,
        {"--painter": NOTHING, "--features": NOTHING, "--cocoee": "no prompts to swap by", **OF_COCOEE},
    ),
    "evaluate painters": (
        ["evaluate", "--methods", "photoswap", "painters", "--out", "out"],
        EVALUATE,
        {"--cocoee": "no prompts to swap by", **OF_COCOEE},
    ),
    "evaluate COCOEE": (
        [*ON_COCOEE, "--methods", "blended-text", "painter", "--painter", "elsewhere", "--words", "words.txt"],
        {
            **{**EVALUATE, "--painter": ["nowhere"], "--words": ["more-words.txt"]},
            **{"--methods": ["paste-harmonise"], "--real": ["masks"]},
        },
        {**dict.fromkeys((*OF_WORLD, "--recogniser"), NOTHING), "--cocoee": "has no folder GT_3500"}
        | {"--methods": "--painter changes nothing"},
    ),
    "demo": (["demo", "--out", "a.png"], {**COMMON, "--out": ["b.png"], "--paint": []}, {}),
    "demo of painting": (["demo", "--paint", "--out", "a.png"], {**COMMON, "--out": ["b.png"], "--paint": []}, {}),
    "generate": (["generate", "a cat", "--out", "a.png"], GENERATE, {}),
    "generate at guidance 1": (
        ["generate", "a cat", "--guidance", "1", "--out", "a.png"],
        GENERATE,
        {"--negative": NOTHING},
    ),
    "attention in a picture": (
        ["attention", "in.png", "--prompt", "a photo of a dog", "--out", "out"],
        ATTENTION,
        {"--seed": NOTHING, "--guidance": NOTHING},
    ),
    "attention in an inversion": (
        ["attention", "in.safetensors", "--out", "out"],
        ATTENTION,
        dict.fromkeys(("--inversion", "--steps", "--size", "--guidance", "--seed"), NOTHING),
    ),
    "attention of A in what is drawn": (
        ["attention", "--prompt", "a photo of a dog", "--quantity", "A", "--out", "out"],
        {**ATTENTION, "--quantity": ["M"]},
        {"--inversion": NOTHING, "--components": NOTHING},
    ),
    "sweep in a picture": (
        [*("sweep", "in.png", "--prompt", "a photo of a dog"), *SWEPT],
        SWEEP,
        {"--seed": NOTHING, "--task": "a picture of its own"},
    ),
    "sweep in an inversion": (
        ["sweep", "in.safetensors", *SWEPT],
        SWEEP,
        {**dict.fromkeys(("--inversion", "--steps", "--size", "--seed"), NOTHING), "--task": "a picture of its own"},
    ),
    "sweep in what is drawn": (
        ["sweep", "--prompt", "a photo of a dog", *SWEPT],
        SWEEP,
        {"--inversion": NOTHING, "--task": NOTHING},
    ),
    "sweep in a task": (
        ["sweep", "--task", "demo-0", "--set", "phi=0,2", "--out", "out"],
        {**SWEEP, "--phi": ["4"], "--A": ["2"]},
        {**dict.fromkeys(("--prompt", "--subject", "--target", "--seed"), NOTHING), "--phi": "given twice"},
    ),
    "invert a picture": (
        ["invert", "in.png", "--prompt", "a dog", "--out", "a.safetensors"],
        INVERT,
        {"--seed": NOTHING, "--guidance": NOTHING},
    ),
    "invert a picture by null-text": (
        ["invert", "in.png", "--prompt", "a dog", "--inversion", "null-text", "--out", "a.safetensors"],
        INVERT,
        {"--seed": NOTHING},
    ),
    "invert what is drawn": (
        ["invert", "--prompt", "a dog", "--out", "a.safetensors"],
        INVERT,
        {"--inversion": NOTHING},
    ),
    "mask": (["mask", "in.png", "--word", "dog", "--out", "a.png"], MASK, {}),
    "methods": (["methods"], {"--model": ["sd21"], "--steps": ["3"], "--size": ["512"]}, {}),
    "paint a reference": (
        OF_REFERENCE,
        PAINT,
        {
            **dict.fromkeys(("--word-model", "--negative", "--eta", "--concept"), NOTHING),
            **dict.fromkeys(("--box", "--word", "--prompt"), ALONE),
            **dict.fromkeys(("--features", "--reference-mask"), NOTHING),
            "--set": "has no setting t0",
        },
    ),
    "paint what is pasted": (
        [*OF_REFERENCE, "--method", "paste-harmonise"],
        {**PAINT, "--method": ["network"], "--set": ["share=0.5"]},
        {
            **dict.fromkeys(("--word-model", "--negative", "--concept", "--prompt", "--count", *NO_NETWORK), NOTHING),
            **dict.fromkeys(("--sampler", "--eta", "--features"), NOTHING),
            **dict.fromkeys(("--box", "--word"), ALONE),
        },
    ),
    "paint towards a reference": (
        [*OF_REFERENCE, "--method", "blended-image", "--prompt", "a cat"],
        {**PAINT, "--set": ["image_scale=10"], "--method": ["cake"]},
        {
            **dict.fromkeys(("--word-model", "--sampler", "--eta", "--reference-mask"), NOTHING),
            **dict.fromkeys(("--box", "--word"), ALONE),
            "--method": "invalid choice",
        },
    ),
    "paint a prompt": (
        ["paint", "in.png", "--word", "photo", "--prompt", "a cat", "--out", "out"],
        {**PAINT, "--sampler": ["plms"], "--method": ["blended-text"], "--set": ["t0=0.3"]},
        {
            **dict.fromkeys(("--box", "--mask", "--reference"), ALONE),
            **dict.fromkeys(("--features", "--reference-mask"), NOTHING),
            "--set": "has no setting t0",
        },
    ),
    "swap in a picture": (
        OF_PICTURE,
        SWAP,
        {**SWAP_REFUSED, "--seed": NOTHING, "--fractions": "fractions belong to the preset"},
    ),
    "swap in an inversion": (
        ["swap", "in.safetensors", "--subject", "dog", "--target", "cat", "--out", "out"],
        {**SWAP, "--mask": ["large.png"]},
        {
            **SWAP_REFUSED,
            "--crop": "wants a picture",
            "--seed": NOTHING,
            "--inversion": NOTHING,
            "--fractions": "fractions belong to the preset",
        },
    ),
    "swap in what is drawn": (
        ["swap", "--prompt", "a photo of a dog", "--subject", "dog", "--target", "cat", "--out", "out"],
        {**SWAP, "--mask": ["large.png"]},
        {
            **SWAP_REFUSED,
            "--crop": "wants a picture",
            "--inversion": NOTHING,
            "--fractions": "fractions belong to the preset",
        },
    ),
    "swap as the released code": (
        [*OF_PICTURE, "--preset", "official"],
        {**SWAP, "--preset": ["paper"], "--fractions": ["0.4", "0.2", "0.5"]},
        {**SWAP_REFUSED, "--seed": NOTHING},
    ),
    "swap by fractions": (
        [*OF_PICTURE, "--preset", "official", "--fractions", "0.4", "0.2", "0.5"],
        {**SWAP, "--preset": ["paper"]},
        {
            **SWAP_REFUSED,
            "--seed": NOTHING,
            "--phi": NOTHING,
            "--M": NOTHING,
            "--A": NOTHING,
            "--preset": "fractions belong",
        },
    ),
    "swap without A": (
        [*OF_PICTURE, "--A", "0"],
        SWAP,
        {**SWAP_REFUSED, "--seed": NOTHING, "--align": NOTHING, "--fractions": NOTHING},
    ),
    "learn": (
        ["learn", "refs", "--class", "cat", "--out", "out"],
        {**LEARN, "--train-text-encoder": ["--no-train-text-encoder"]},
        dict.fromkeys((*OF_LORA, *OF_MASKS, *OF_WORDS, *OF_CUSTOM), NOTHING),
    ),
    "learn with masks": (
        ["learn", "refs", "--class", "cat", "--out", "out", "--mask-loss"],
        {**LEARN, "--mask-loss": ["--no-mask-loss"], "--train-text-encoder": ["--no-train-text-encoder"]},
        dict.fromkeys((*OF_LORA, "--token-learning-rate", *OF_WORDS, *OF_CUSTOM), NOTHING),
    ),
    "learn a LoRA": (
        ["learn", "refs", "--class", "cat", "--out", "out", "--method", "lora"],
        {**LEARN, "--method": ["dreambooth"]},
        dict.fromkeys((*OF_CLASS, "--text-learning-rate", "--token-steps", *OF_MASKS, *OF_WORDS, *OF_CUSTOM), NOTHING),
    ),
    "learn a word": (
        ["learn", "refs", "--class", "cat", "--out", "out", "--method", "textual-inversion"],
        LEARN,
        dict.fromkeys(
            (*OF_LORA, *OF_TEXT, *OF_CLASS, "--prior-weight", "--token-steps", *OF_MASKS, *OF_CUSTOM), NOTHING
        ),
    ),
    "learn by Custom Diffusion": (
        ["learn", "refs", "--class", "cat", "--out", "out", "--method", "custom-diffusion"],
        {
            **{**LEARN, "--batch": ["3"], "--mirror": ["--no-mirror"]},
            "--scale-learning-rate": ["--no-scale-learning-rate"],
        },
        {
            **dict.fromkeys((*OF_LORA, *OF_TEXT, "--tokens-per-word", "--token-steps", *OF_MASKS), NOTHING),
            **{"--random-crop": "leave one of them out", "--mask-loss": "leave out zoom"},
            "--attention-loss": "leave out zoom",
        },
    ),
    "learn without the class": (
        ["learn", "refs", "--class", "cat", "--prior-weight", "0", "--out", "out"],
        {**LEARN, "--train-text-encoder": ["--no-train-text-encoder"]},
        dict.fromkeys((*OF_CLASS, *OF_LORA, *OF_MASKS, *OF_WORDS, *OF_CUSTOM), NOTHING),
    ),
    "web": (["web"], WEB, {}),
    "weights list": (["weights", "list"], {"--cache": ["there"]}, {}),
    "weights fetch": (["weights", "fetch", "sd21"], FETCH, {}),
    "weights fetch offline": (["weights", "fetch", "sd21", "--offline"], FETCH, {"--mirror": "asks no --mirror"}),
    "weights verify": (["weights", "verify", "miniature"], {**WHAT, "--quiet": []}, {}),
    "weights convert": (["weights", "convert", "miniature", "a.safetensors", "--layout", "ldm"], CONVERT, {}),
    "weights convert to a folder": (
        ["weights", "convert", "miniature", "folder", "--layout", "folder"],
        {**CONVERT, "--layout": ["ldm"]},
        {"--overwrite": "never a folder"},
    ),
}
for line, flags, refused_flags in CASES.values():
    if line[0] == "learn":
        flags["--each"], refused_flags["--each"] = ["refs"], "leave the others out"
        flags["--shard"], refused_flags["--shard"] = [], "start several with torchrun"
WITHOUT: dict[tuple[str, bool], tuple] = {}  # what a case does without more flags, known once it has run
OUTPUTS = ("a.png", "a.safetensors")
OUTPUTS += tuple(f"out/{name}" for name in ("result.png", "concept.safetensors", "attention.json", "sweep.json"))


def options(name: str) -> set[str]:
    """The first spelling of every flag of a command, or of an action of `weights`; each help and debug has tests."""
    parser: argparse.ArgumentParser = build_parser()
    for word in name.split():
        choices = next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = choices[word]
    flags = {action.option_strings[-1 if len(action.option_strings[0]) == 2 else 0] for action in flagged(parser)}
    return flags - {"--help", "--debug"}


def flagged(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


@pytest.mark.parametrize("case", CASES)
def test_the_table_has_every_flag(case):
    line, flags, refused = CASES[case]
    command = " ".join(line[: 2 if line[0] == "weights" else 1])
    assert flags.keys() == options(command) and refused.keys() <= flags.keys()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def inversion(model):
    return synthesize(model, "a photo of a dog", 0, 50)


@pytest.fixture
def noted(model, inversion, monkeypatch):
    """What was called, with what; nothing is computed."""
    calls: list[str] = []
    picture, mask = paint((64, 64), 0), Image.new("L", (64, 64))
    mask.paste(255, (2, 2, 60, 60))
    # takes both a reference and a prompt, as no real model does
    painter = replace(model, config=replace(model.config, unet=replace(model.config.unet, in_channels=9)))
    monkeypatch.setattr("photoswap.painters.check_told", lambda *_: None)
    painted = PaintResult(picture, picture, picture, (0, 0, 64, 64), torch.zeros(1), 0)
    swapped = SwapResult(picture, picture, picture, torch.zeros(1), torch.zeros(1), {}, {})
    answers = {
        "weights.load.load_as": lambda kind, *more: model if kind is StableDiffusion else painter,
        "photoswap.drawing.generate": picture,
        "photoswap.inversion.invert_image": inversion,
        "photoswap.inversion.encode": inversion,
        "photoswap.inversion.synthesize": inversion,
        "photoswap.inversion.reconstruct": picture,
        "photoswap.pipeline.swap_all": lambda model, requests, **more: [swapped] * len(requests),
        "photoswap.masks.find_subject": Found(picture.convert("L"), (0, 0, 64, 64), torch.zeros(64, 64)),
        "photoswap.masks.find_subjects": [Found(mask, (20, 20, 40, 40), torch.zeros(64, 64))],
        "photoswap.painters.paint": painted,
        "photoswap.benchmark.features.find_features": SimpleNamespace(embed=len),
        "photoswap.demo.run_demo": None,
        "photoswap.demo_paint.run_paint_demo": None,
        "photoswap.figures.sweep.sweep": Sweep({"phi": (1,)}, (Cell({"phi": 1}, swapped),), 1, 2),
        "photoswap.figures.sweep.scores_of": {"background": 1.0},
        "photoswap.figures.sweep.draw_curves": SimpleNamespace(savefig=lambda place, format: place.touch()),
        "photoswap.web.server.serve": None,
        "photoswap.benchmark.judge.find_judge": (Judge(), []),
        "photoswap.benchmark.entries.tuned_settings": (("phi", 3),),
        "photoswap.benchmark.report.run_and_report": [],
        "photoswap.benchmark.cocoee_report.run_cocoee": [],
        "photoswap.figures.attention.look": SeenMaps(torch.eye(16), torch.ones(77, 4, 4), (4, 4), (0,)),
        "photoswap.figures.drawing.component_row": ([picture], ["a"]),
        "train.learn.learn": None,
        "train.memory.memory_of": Memory(*range(1, 9), dict.fromkeys((True, False), StepMemory(1, 2, 3)), {"a": 1}, {}),
        "train.concepts.apply_in_place": None,
        "weights.convert.convert": None,
        "models.fast.make_fast": None,
        "models.fast.set_tiling": None,
    }
    for name in (*answers, "weights.fetch.fetch", "weights.verify.verify"):  # first, or one keeps a stand-in for good
        import_module(name.rpartition(".")[0])
    for name, answer in answers.items():
        monkeypatch.setattr(name, noting(name, calls, answer))
    for name in ("weights.fetch.fetch", "weights.verify.verify"):  # whose answers are printed: not told here
        monkeypatch.setattr(name, noting(name, calls, ValueError("as far as it goes")))
    return calls


def noting(name, calls, answer):
    """A function that notes its name and arguments, and answers always the same."""
    module, _, function = name.rpartition(".")
    signature = inspect.signature(getattr(__import__(module, fromlist=[function]), function))

    def call(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        calls.append(f"{name} {[(key, shown(value)) for key, value in bound.arguments.items()]}")
        if isinstance(answer, Exception):
            raise answer
        return answer(*args, **kwargs) if inspect.isfunction(answer) else answer

    return call


def shown(value):
    if isinstance(value, Image.Image):
        return value.mode, value.size, hash(value.tobytes())
    if isinstance(value, Inversion):
        return "inversion"
    if isinstance(value, list):
        return [shown(one) for one in value]
    if isinstance(value, SwapRequest | Told):
        return {field.name: shown(getattr(value, field.name)) for field in fields(value)}
    return type(value).__name__ if hasattr(value, "unet") or callable(value) else repr(value)


@pytest.mark.parametrize(("case", "flag"), [(case, flag) for case in CASES for flag in CASES[case][1]])
def test_every_flag_changes_something_or_says_why_not(
    case, flag, noted, inversion, concept, tmp_path, monkeypatch, capsys
):
    line, flags, refused = CASES[case]
    values = [value.replace("CONCEPT", str(concept)) for value in flags[flag]]

    def told(home, *extra):
        lay_out(home, inversion, OUTPUTS if flag == "--overwrite" else ())
        monkeypatch.chdir(home)
        noted.clear()
        code = main([*line, *extra])
        return [*noted], code, *capsys.readouterr(), files(home)

    key = case, flag == "--overwrite"
    if key not in WITHOUT:
        WITHOUT[key] = told(tmp_path / "without")
    without, given = WITHOUT[key], told(tmp_path / "with", flag, *values)
    if flag in refused:
        started = [call for call in given[0] if not call.startswith(("weights.load.load", "models.fast.set_tiling"))]
        assert given[1] == 2 and refused[flag] in given[3] and not started
    elif f"{flag} " in " ".join([*line, ""]) and not values:
        assert given == without  # said twice
    else:
        assert given != without and NOTHING not in given[3]
        assert given[1] == 0 or flag in ("--device", "--method") or "as far as it goes" in given[3]


def lay_out(home, inversion, outputs):
    """A folder with what the lines read, and with earlier results."""
    (home / "refs").mkdir(parents=True)
    (home / "masks").mkdir()
    for name in ("a", "b"):
        Image.new("L", (64, 64), 255).save(home / f"refs/{name}.mask.png")
        Image.linear_gradient("L").resize((64, 64)).save(home / f"masks/{name}.png")
    for seed, name in enumerate(("refs/a.png", "in.png", "refs/b.png")):
        paint((64, 64), seed).save(home / name)
    Image.linear_gradient("L").resize((64, 64)).save(home / "other-mask.png")
    Image.new("L", (64, 64), 255).save(home / "mask.png")
    Image.new("L", (128, 128), 255).save(home / "large.png")
    for name, end in (("GT_3500", "GT"), ("Ref_3500", "ref"), ("Mask_bbox_3500", "mask")):
        for number in range(3):
            file = home / "bench" / name / f"{number:012d}_{end}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (64, 64), 255).save(file)
    for name in ("words.txt", "more-words.txt"):
        (home / name).write_text("".join(f"{number} {name[:4]}\n" for number in range(3)))
    inversion.save(home / "in.safetensors")
    for name in outputs:
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(b"from before")
