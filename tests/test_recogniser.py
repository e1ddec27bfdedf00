"""train.recogniser: the squares it looks at, the questions it is asked, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import assert_gradients_reach_everything, assert_rows_are_independent, distance, drawn, normal

from models.images import to_tensor
from train.miniature.data import mixed_scene_at
from train.recogniser import ATTRIBUTES, JOINTS, Recogniser, load_recogniser, prepare, recognise_subjects
from train.recogniser.learn import IGNORED, JOINT_WEIGHT, Questions, accuracy, answers, blurred, recognition_loss
from train.recogniser.network import SQUARE_SIDE, TILT, square_of
from train.world import SMALL, Look, Pose, Scene, Subject, render

PAIRS = (0.0, 1.0, 0.0)
NAMES = list(ATTRIBUTES)


@pytest.fixture
def recogniser(device):
    return drawn(Recogniser(), device)


def test_it_answers_every_question_and_every_parameter_learns(recogniser, device):
    squares = normal(3, 3, SQUARE_SIDE, SQUARE_SIDE, device=device)
    scores = recogniser(squares)
    assert scores.keys() == {*ATTRIBUTES, "joints"} and scores["joints"].shape == (3, len(JOINTS))
    assert all(scores[name].shape == (3, len(values)) for name, values in ATTRIBUTES.items())
    labels, joints = torch.zeros(3, len(ATTRIBUTES), dtype=torch.long, device=device), torch.zeros(3, 4, device=device)
    assert_gradients_reach_everything(recogniser, lambda: recognition_loss(recogniser, squares, labels, joints))
    assert_rows_are_independent(lambda x: recogniser(x)["species"], squares)


def test_a_complete_picture_is_shrunk_and_a_box_is_cut_out(device):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 192), torch.linspace(-1, 1, 192), indexing="ij")
    image = torch.stack([x, y, x * 0])[None].to(device)
    shrunk = prepare(image)
    wanted = torch.nn.functional.interpolate(image, SQUARE_SIDE, mode="bilinear", align_corners=False)
    assert shrunk.shape == (1, 3, SQUARE_SIDE, SQUARE_SIDE) and distance(shrunk, wanted) < 1e-5
    cut = prepare(image, torch.tensor([[0.75, 0.25, 0.125]], device=device))[0]
    assert cut[0].mean().item() == pytest.approx(0.5, abs=0.01) and cut[1].mean().item() == pytest.approx(
        -0.5, abs=0.01
    )
    assert (cut[0].max() - cut[0].min()).item() == pytest.approx(0.5, abs=0.02)  # a quarter of the picture's width


def test_a_box_is_around_its_mask():
    mask = torch.zeros(100, 200, dtype=torch.bool)
    mask[20:40, 100:180] = True
    assert square_of(mask, margin=1.0) == pytest.approx((0.7, 0.3, 0.2))
    assert square_of(mask, margin=2.0)[2] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="hidden completely"):
        square_of(torch.zeros(4, 4, dtype=torch.bool))


def test_what_a_picture_cannot_show_is_not_asked():
    pose = Pose(tilt=0.1, stride=0.5, head=-1.0, tail=0.25, facing="left")
    scene = Scene(Look("duck", "green"), pose, "snow", "sunset")
    labels, joints = answers(scene, scene.subjects[0])
    said = {
        name: label if label == IGNORED else ATTRIBUTES[name][label] for name, label in zip(NAMES, labels, strict=True)
    }
    assert said == {
        "species": "duck",
        "colour": "green",
        "pattern": "plain",
        "second": IGNORED,
        "accessory": "none",
        "accessory_colour": IGNORED,
        "facing": "left",
        "place": "snow",
        "light": "sunset",
    }
    assert joints == pytest.approx([0.1 / TILT, 0.5, -1.0, 0.25])
    dressed = Subject(Look("duck", "green", "striped", "red", "hat", "pink"), pose)
    labels, _ = answers(scene, dressed)
    assert IGNORED not in labels and ATTRIBUTES["accessory_colour"][labels[NAMES.index("accessory_colour")]] == "pink"


def test_a_question_nobody_asks_costs_nothing(recogniser, device):
    squares, joints = normal(2, 3, SQUARE_SIDE, SQUARE_SIDE, device=device), torch.zeros(2, 4, device=device)
    labels = torch.full((2, len(ATTRIBUTES)), IGNORED, device=device)
    with torch.no_grad():
        alone = recognition_loss(recogniser, squares, labels, joints)
        assert alone == pytest.approx(JOINT_WEIGHT * recogniser(squares)["joints"].square().mean().item(), rel=1e-5)
        labels[:, 0] = 1
        assert recognition_loss(recogniser, squares, labels, joints) > alone


def test_squares_are_around_the_subject_they_ask_about():
    """Of two subjects painted in one colour each, the square of either shows mostly its own."""
    scenes = [mixed_scene_at(SMALL, 5, i, PAIRS) for i in range(6)]
    flat = []
    for scene in scenes:
        left, right = (np.asarray(mask) > 127 for mask in render(scene).masks)
        flat.append(np.stack([255 * left, 255 * right, 0 * left], axis=-1).astype(np.uint8))
    questions = Questions([np.stack(flat[:4]), np.stack(flat[4:])], scenes)
    assert len(questions.rows) == 12
    rng = np.random.default_rng(0)
    first = {(s.look.species, s.look.colour): None for scene in scenes for s in scene.subjects[:1]}
    for _ in range(5):
        squares, labels, _ = questions.batch(16, rng, "cpu")
        left, right = ((squares[:, c] > 0.5).float().mean((1, 2)) for c in (0, 1))
        for i, row in enumerate(labels.tolist()):
            named = tuple(ATTRIBUTES[name][row[NAMES.index(name)]] for name in ("species", "colour"))
            assert (left[i] > right[i]) == (named in first)


def test_a_mirrored_square_faces_the_other_way():
    scene = Scene(Look("horse"), Pose(facing="right"))
    questions = Questions([np.asarray(render(scene).image)[None]], [scene])
    squares, labels, joints = questions.batch(40, np.random.default_rng(0), "cpu")
    facing = labels[:, NAMES.index("facing")]
    assert 8 < facing.sum() < 32 and joints.abs().max() == 0
    right, left = squares[facing == 1].mean(0), squares[facing == 0].mean(0)
    assert (right - left.flip(-1)).abs().mean() < 0.3 * (right - left).abs().mean()


def test_half_of_a_batch_is_blurred():
    squares = normal(8, 3, SQUARE_SIDE, SQUARE_SIDE, device="cpu")
    seen = blurred(squares, np.random.default_rng(0))
    change = (seen - squares).square().mean((1, 2, 3))
    assert seen.shape == squares.shape and change[:4].min() > 20 * change[4:].max() > 0


def test_it_says_which_value_is_likeliest(recogniser, device, monkeypatch):
    scores = {name: torch.zeros(2, len(values), device=device) for name, values in ATTRIBUTES.items()}
    scores["species"][0, 3], scores["species"][1, 1] = 5.0, 5.0
    monkeypatch.setattr(
        Recogniser, "forward", lambda self, x: scores | {"joints": torch.tensor([[1.0, -3, 0, 0.5]] * 2)}
    )
    image = Image.new("RGB", (128, 128))
    first, second = recognise_subjects(recogniser.cpu(), [image, image], [None, Image.new("L", (128, 128), 255)])
    assert first["species"] == ATTRIBUTES["species"][3] and second["species"] == ATTRIBUTES["species"][1]
    assert sum(first.probabilities["species"]) == pytest.approx(1)
    assert first.joints == pytest.approx({"tilt": 0.2, "stride": -1.0, "head": 0.0, "tail": 0.5})


def test_accuracy_is_the_share_of_right_answers(monkeypatch):
    """An oracle that knows the held-out scenes is always right, and one that always says the next value never."""
    scenes = [mixed_scene_at(SMALL, 10_000, i, PAIRS) for i in range(4)]
    right = [answers(scene, subject) for scene in scenes for subject in scene.subjects]

    def oracle(shift):
        labels, joints = torch.tensor([r[0] for r in right]).clamp(min=0), torch.tensor([r[1] for r in right])
        sizes = [len(values) for values in ATTRIBUTES.values()]
        scores = {
            name: torch.nn.functional.one_hot((labels[:, i] + shift) % sizes[i], sizes[i]).float()
            for i, name in enumerate(NAMES)
        }
        return lambda self, squares: scores | {"joints": joints + shift}

    for shift in (0, 1):
        monkeypatch.setattr(Recogniser, "forward", oracle(shift))
        found = accuracy(Recogniser(), "small", "pair", False, 4)
        assert all(found[name] == 1 - shift for name in ATTRIBUTES)
        assert all(found[name] == pytest.approx(shift, abs=1e-6) for name in JOINTS)


def test_it_learns_a_handful_of_pictures(device):
    torch.manual_seed(0)
    scenes = [Scene(Look(s, c), Pose()) for s, c in (("cat", "red"), ("car", "blue"), ("duck", "green"))]
    squares = prepare(torch.stack([to_tensor(render(scene).image) for scene in scenes])).to(device)
    labels, joints = (
        torch.tensor(x, device=device) for x in zip(*(answers(s, s.subjects[0]) for s in scenes), strict=True)
    )
    model = Recogniser().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        recognition_loss(model, squares, labels, joints).backward()
        optimizer.step()
    species = model(squares)["species"].argmax(1)
    assert torch.equal(species, labels[:, 0]) and recognition_loss(model, squares, labels, joints) < 1


def test_weights_that_are_not_there_say_what_makes_them(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*; run python -m train\.recogniser\.learn first"):
        load_recogniser(tmp_path / "none.safetensors")


def test_pairs_are_asked_about_both():
    scene = mixed_scene_at(SMALL, 5, 0, PAIRS)
    swapped = replace(scene, look=scene.others[0].look)
    assert answers(scene, scene.subjects[1])[0][0] == answers(swapped, swapped.subjects[0])[0][0]
