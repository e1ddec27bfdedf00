"""The benchmark's tasks: the same for a number, apart for a split, of subjects that nobody trained on, exact."""

import numpy as np
import pytest

from photoswap.benchmark.tasks import REFERENCES, SPLITS, draw_task, make_task
from train.miniature.data import SCENE_KINDS
from train.world import SMALL


def pixels(image):
    return np.asarray(image, dtype=float)


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_a_task_is_a_function_of_its_split_kind_and_number(kind):
    first, again = (draw_task("dev", kind, 3) for _ in range(2))
    others = draw_task("dev", kind, 4), draw_task("test", kind, 3)
    assert first.name == f"dev-{kind}-3" and first.kind == kind
    assert first.source.image.tobytes() == again.source.image.tobytes()
    assert [r.tobytes() for r in first.references] == [r.tobytes() for r in again.references]
    assert first.scene not in [other.scene for other in others]


@pytest.mark.parametrize("kind", SCENE_KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_newcomers_were_never_trained_on_and_their_hosts_may_have_been(split, kind):
    for index in range(4):
        task = draw_task(split, kind, index)
        assert len(task.newcomers) == len(task.scene.subjects) == len(task.turns()) == len(task.truth.masks)
        for newcomer, old in zip(task.newcomers, task.scene.subjects, strict=True):
            assert SMALL.unseen(newcomer.look) and not SMALL.unseen(old.look)
            assert newcomer.look.colour != old.look.colour
            assert len({image.tobytes() for image in newcomer.references}) == REFERENCES
            assert all(np.asarray(picture.mask).max() == 255 for picture in newcomer.pictures)
        assert task.within_species == (kind == "pair" or index % 2 == 0)


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_the_truth_is_the_source_outside_its_subjects(kind):
    task = draw_task("dev", kind, 0)  # within species, so that the shadows are the same too
    touched = np.any([pixels(mask) > 0 for mask in (*task.source.masks, *task.truth.masks)], axis=0)
    differs = (pixels(task.source.image) != pixels(task.truth.image)).any(axis=2)
    assert not (differs & ~touched).any() and differs[touched].mean() > 0.5


def test_prompts_name_species_place_and_light_alone():
    task = draw_task("dev", "pair", 0)
    assert task.prompt == "a photo of a duck and a horse on a beach at sunset"
    first, second = task.turns()
    assert first.target == "a photo of a sks duck and a horse on a beach at sunset"
    assert second.source == task.prompt and second.target == "a photo of a duck and a sks horse on a beach at sunset"
    (plain,) = draw_task("dev", "hidden", 1).turns(["car"])
    assert plain.source == "a photo of a duck behind a box on a wooden floor"
    assert plain.target == "a photo of a car behind a box on a wooden floor"


def test_a_task_can_be_drawn_larger():
    task = draw_task("dev", "single", 0, size=256)
    assert {task.source.image.size, task.truth.mask.size, task.references[0].size} == {(256, 256)}
    assert make_task(0, size=64).source.image.size == (64, 64)


def test_the_demos_scenes_are_a_split_of_their_own():
    tasks = [draw_task("demo", "single", i) for i in range(2)]
    assert tasks[0].source.image.tobytes() == make_task(100).source.image.tobytes() and tasks[0].name == "demo-single-0"
    assert tasks[0].references[0].tobytes() == tasks[1].references[0].tobytes()
    with pytest.raises(ValueError, match="the demo's scenes have one subject each, and none is pair"):
        draw_task("demo", "pair", 0)


def test_unknown_splits_and_kinds_are_refused():
    with pytest.raises(ValueError, match="no split 'training'; want one of dev, test, demo"):
        draw_task("training", "single", 0)
    with pytest.raises(ValueError, match="no kind of task 'three'; want one of single, pair, hidden"):
        draw_task("dev", "three", 0)
