"""Every score of the benchmark on pictures whose answer is known: the truth, the source, and what was done to them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_model import tiny_model

from photoswap.benchmark.judge import (
    MOST_PSNR,
    SCORE_KINDS,
    Carried,
    Judge,
    attributes_of,
    background,
    blackened,
    find_judge,
    in_front,
    joints_of,
)
from photoswap.benchmark.lpips import LPIPS
from photoswap.benchmark.shapes import by_words, report_shapes, seen_shape, true_shape
from photoswap.benchmark.tasks import draw_task
from photoswap.benchmark.workbench import pasted
from train.miniature.data import SCENE_KINDS
from train.recogniser import ATTRIBUTES, Recogniser, Seen
from train.world import Look

HIGH = [name for name, kind in SCORE_KINDS.items() if kind.more]


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    return Judge(Recogniser().eval().requires_grad_(False), LPIPS().requires_grad_(False))


@pytest.fixture(scope="module", params=SCENE_KINDS)
def task(request):
    return draw_task("dev", request.param, 0)


def seen_as(look, pose, **wrong):
    """What a recogniser would answer that knows the subject, but for what it gets wrong."""
    right = {name: values[0] for name, values in ATTRIBUTES.items()} | attributes_of(look) | wrong
    sure = {name: tuple(float(value == right[name]) for value in values) for name, values in ATTRIBUTES.items()}
    return Seen(sure, joints_of(pose))


def test_the_truth_is_perfect(judge, task, monkeypatch):
    knows = [seen_as(subject.look, subject.pose) for subject in task.true_scene.subjects]
    monkeypatch.setattr("photoswap.benchmark.judge.recognise_subjects", lambda *_: knows)
    found = judge.scores(task.truth.image, task)
    assert found.keys() == SCORE_KINDS.keys() - (set() if task.scene.front else {"front_psnr"})
    assert found["subject_psnr"] == found["overall_psnr"] == found["background_psnr"] == MOST_PSNR
    assert found["subject_ssim"] == pytest.approx(1) and found["subject_palette"] == pytest.approx(1)
    assert found["identity"] == 1
    assert found["pose_error"] == 0 == found["background_lpips"] and found["shape_iou"] > 0.85


def test_the_source_keeps_the_background_and_lacks_the_subject(judge, task):
    found = judge.scores(task.source.image, task)
    assert found["background_psnr"] == MOST_PSNR and found["background_ssim"] == pytest.approx(1)
    assert found["subject_psnr"] < 20 and found["subject_ssim"] < 0.8 and found["overall_psnr"] < 30


def test_scores_look_where_they_say(task):
    ground, body = background(task), true_shape(task)
    assert not (ground & body).any()
    for region, hit in ((ground, "background"), (body, "subject")):
        pixels = np.array(task.truth.image)
        pixels[region] //= 2
        found = Judge().scores(Image.fromarray(pixels), task)
        for name in ("background_psnr", "subject_psnr"):
            assert (found[name] < MOST_PSNR) == name.startswith(hit)
        assert found["overall_psnr"] < MOST_PSNR


def test_what_stands_in_front_has_a_score_of_its_own():
    task = draw_task("dev", "hidden", 0)
    place = in_front(task)
    assert 50 < place.sum() < place.size / 4 and not (place & true_shape(task)).any()
    pixels = np.array(task.truth.image)
    pixels[place] = 0
    assert Judge().scores(Image.fromarray(pixels), task)["front_psnr"] < 15
    assert not in_front(draw_task("dev", "single", 0)).any()


def test_the_autoencoders_own_picture_is_perfect_against_itself(judge, task):
    soft = [picture.resize((64, 64)).resize((128, 128)) for picture in (task.source.image, task.truth.image)]
    carried = Carried(*soft)
    exact, against = judge.scores(carried.truth, task), judge.scores(carried.truth, task, carried)
    assert exact["subject_psnr"] < 35 and against["subject_psnr"] == MOST_PSNR == against["overall_psnr"]
    assert against["identity"] == 1 == against["shape_iou"] and against["pose_error"] == 0


def test_identity_counts_what_the_picture_can_show(judge, monkeypatch):
    task = draw_task("dev", "single", 0)
    (subject,) = task.true_scene.subjects
    asked = attributes_of(subject.look)
    assert len(asked) == 5 and "second" not in asked  # a plain coat, and a scarf
    for wrong, share in (({"species": "car"}, 4 / 5), ({"second": "red"}, 1)):
        monkeypatch.setattr(
            "photoswap.benchmark.judge.recognise_subjects",
            lambda *_, wrong=wrong: [seen_as(subject.look, subject.pose, **wrong)],
        )
        assert judge.scores(task.truth.image, task)["identity"] == share
    bent = replace(subject.pose, stride=subject.pose.stride - 1)
    monkeypatch.setattr("photoswap.benchmark.judge.recognise_subjects", lambda *_: [seen_as(subject.look, bent)])
    assert judge.scores(task.truth.image, task)["pose_error"] == pytest.approx(0.5)  # one joint of four, by 1
    dressed = Look("cat", "red", "spotted", "white", "hat", "blue")
    assert attributes_of(dressed) == {
        **{"species": "cat", "colour": "red", "pattern": "spotted"},
        **{"second": "white", "accessory": "hat", "accessory_colour": "blue"},
    }


def test_recognising_asks_for_species_colour_and_pattern(judge, monkeypatch):
    task = draw_task("dev", "single", 0)
    look, pose = task.true_scene.subjects[0]
    answers = [seen_as(look, pose), seen_as(look, pose, accessory="hat"), seen_as(look, pose, pattern="spotted")]
    monkeypatch.setattr("photoswap.benchmark.judge.recognise_subjects", lambda *_: answers)
    assert judge.recognises([task.truth.image] * 3, look) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no recogniser"):
        Judge().recognises([], look)


def test_without_weights_there_are_fewer_scores(task, monkeypatch, tmp_path):
    monkeypatch.setattr("photoswap.benchmark.judge.RECOGNISER_FILE", tmp_path / "no.safetensors")
    monkeypatch.setattr("photoswap.benchmark.judge.find_lpips", lambda: "LPIPS is left out: so there")
    bare, said = find_judge()
    assert said == ["identity and pose are left out: there is no no.safetensors", "LPIPS is left out: so there"]
    assert {"identity", "pose_error", "background_lpips"} & bare.scores(task.source.image, task).keys() == set()
    assert bare.known_by == {"recogniser": None, "lpips": None}
    with pytest.raises(ValueError, match="there is no file"):
        find_judge(tmp_path / "named.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"something else")
    save_file({"x": torch.zeros(1)}, tmp_path / "strange.safetensors")
    for name in ("other.safetensors", "strange.safetensors"):
        with pytest.raises(ValueError, match=f"{name} holds no weights of a recogniser"):
            find_judge(tmp_path / name)


def test_judges_are_told_apart_by_their_weights(judge):
    torch.manual_seed(1)
    assert judge.known_by != Judge(Recogniser(), judge.lpips).known_by != Judge(None, judge.lpips).known_by


def test_a_shape_is_what_is_not_the_empty_scene(task):
    moved = Image.fromarray(np.roll(np.array(task.truth.image), 40, axis=1))
    assert seen_shape(moved, task).mean() > seen_shape(task.truth.image, task).mean()
    found = seen_shape(task.truth.image, task)
    assert (found & true_shape(task)).sum() > 0.85 * true_shape(task).sum()


def test_shapes_and_the_words_masks_are_reported(capsys, monkeypatch):
    model, found = tiny_model(), by_words(tiny_model(), draw_task("dev", "pair", 0))
    assert len(found) == 2 and all(0 <= rate <= 1 for pair in found for rate in pair)
    monkeypatch.setattr("photoswap.benchmark.shapes.by_words", lambda *_: found)
    report_shapes(model, "dev", 1, [4])
    said = capsys.readouterr().out
    assert all(f"{kind:<8} colour, in the truth" in said for kind in SCENE_KINDS) and "words, box, scale 4" in said


def test_a_pasted_reference_lies_within_the_sources_box(task):
    picture = pasted(task)
    touched = (np.array(picture) != np.array(task.source.image)).any(axis=2)
    boxes = np.zeros_like(touched)
    for mask in task.source.masks:
        rows, columns = (
            (np.asarray(mask) > 127).any(axis=1).nonzero()[0],
            (np.asarray(mask) > 127).any(axis=0).nonzero()[0],
        )
        boxes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    assert touched.sum() > 500 and not (touched & ~boxes).any()


def test_blackened_keeps_a_region():
    region = np.zeros((8, 8), dtype=bool)
    region[:4] = True
    pixels = np.array(blackened(Image.new("RGB", (8, 8), "red"), region))
    assert (pixels[:4] == (255, 0, 0)).all() and not pixels[4:].any()
