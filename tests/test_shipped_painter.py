"""The painter that is in the repository: that it paints whom it is shown, where it is told. Bounds leave room below
what was seen, for other machines round otherwise."""

import numpy as np
import pytest

from models.paint_by_example import PaintByExample
from photoswap.benchmark.judge import find_judge
from photoswap.benchmark.painted import room_for, shown_of
from photoswap.benchmark.tasks import draw_task
from photoswap.guidance import GUIDANCE_OF
from photoswap.paint_methods import PaintSettings
from photoswap.painters import paint
from weights.load import load_as
from weights.published import MINIATURE_PAINTER

TASKS = range(6)
SETTINGS = PaintSettings(steps=20, guidance_scale=GUIDANCE_OF["miniature-paint"])


@pytest.fixture(scope="module")
def painter(device):
    return load_as(PaintByExample, "miniature-paint", device)


@pytest.fixture(scope="module")
def tasks():
    return [draw_task("dev", "single", i) for i in TASKS]


def painted(painter, task, shown_by):
    """The task's source, painted by the first reference of another task, or of its own."""
    reference = shown_by.newcomers[0].pictures[0]
    shown, _ = shown_of(reference.image, reference.mask)
    return paint(painter, task.source.image, room_for(task.source.mask), shown, SETTINGS, seed=1, progress=False).result


def test_it_paints_whom_it_is_shown(painter, tasks):
    judge, _ = find_judge()
    results = [painted(painter, task, task) for task in tasks]
    found = [judge.scores(result, task) for result, task in zip(results, tasks, strict=True)]
    before = [judge.scores(task.source.image, task) for task in tasks]
    mean = lambda scores, name: np.mean([score[name] for score in scores])  # noqa: E731
    assert mean(found, "identity") > mean(before, "identity") + 0.2
    assert mean(found, "subject_palette") > mean(before, "subject_palette") + 0.15
    assert mean(found, "background_psnr") > 20  # boxes are larger than subjects, and 23.9 was seen


def test_another_reference_makes_another_picture(painter, tasks):
    own, other = (painted(painter, tasks[0], tasks[i]) for i in (0, 1))
    inside = np.array(tasks[0].truth.mask) > 127
    assert np.abs(np.array(own, float) - np.array(other, float))[inside].mean() > 20


def test_it_is_small_enough_to_come_along():
    assert MINIATURE_PAINTER.stat().st_size < 25e6
