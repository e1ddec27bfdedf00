"""The demo: its task has a right answer, its scores know it, and a run on a tiny random model does every stage."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_model import tiny_model

from photoswap import demo
from photoswap.benchmark.judge import MOST_PSNR
from photoswap.benchmark.tasks import DEMO_SUBJECT, REFERENCES, Task, make_task
from photoswap.demo import run_demo, score
from photoswap.methods import Photoswap
from photoswap.pipeline import SwapResult
from train.config import DreamBoothConfig
from train.world import SMALL


def answered(picture: Image.Image, task: Task) -> demo.Outcome:
    """The score of a swap that gave this picture."""
    result = SwapResult(picture, picture, task.source.image, None, None, {}, {})  # type: ignore[arg-type]
    return score(task, result)


def test_the_subject_was_never_trained_on():
    assert SMALL.unseen(DEMO_SUBJECT)


def test_the_task_is_the_same_for_a_seed_and_differs_between_seeds():
    first, again, other = (make_task(seed) for seed in (3, 3, 4))
    assert first.source.image.tobytes() == again.source.image.tobytes() != other.source.image.tobytes()
    assert len({image.tobytes() for image in first.references}) == REFERENCES


def test_the_truth_differs_from_the_source_in_the_subject_alone():
    task = make_task(0)
    outcome = answered(task.truth.image, task)
    assert outcome.background == MOST_PSNR and outcome.subject == (MOST_PSNR, pytest.approx(1))
    assert outcome.before[0] < 20 and outcome.before[1] < 0.5


def test_an_unswapped_source_scores_no_subject():
    task = make_task(1)
    outcome = answered(task.source.image, task)
    assert outcome.subject == outcome.before


def test_the_whole_job_on_a_tiny_model(tmp_path, capsys, monkeypatch):
    config = DreamBoothConfig(
        "cat", steps=2, class_pictures=2, class_steps=2, prior_weight=1.0, learning_rate=1e-4, concept_dtype="float32"
    )
    monkeypatch.setattr(demo, "demo_config", lambda seed, subject: replace(config, seed=seed))
    monkeypatch.setattr(demo, "METHOD", Photoswap.scaled(4, guidance_scale=3.0))
    outcome = run_demo(tiny_model(), tmp_path / "demo.png", seed=2, progress=False)
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 5 * 256 and picture.height > 256
    said = capsys.readouterr().out
    for what in ("background kept", "subject to the truth", "learn", "invert and swap", str(tmp_path / "demo.png")):
        assert what in said
    assert np.isfinite(outcome.background)
    assert outcome.swapped.settings["target_prompt"].startswith("a photo of a sks cat")
