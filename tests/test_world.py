"""The drawn world: deterministic, inside the frame, exact under a change of subject, and truly described."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from train.world import COLOURS, FULL, PATTERNS, SMALL, SPECIES, Look, Pose, Scene, caption, draw
from train.world.backgrounds import LIGHTS, PLACES, paint


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


def test_the_full_world_is_as_wide_as_it_says():
    assert len(SPECIES) >= 10 and len(COLOURS) >= 8 and len(PATTERNS) >= 4 and len(PLACES) >= 6 and len(LIGHTS) >= 2
    assert set(SMALL.species) <= set(FULL.species) and set(SMALL.places) <= set(FULL.places)


@pytest.mark.parametrize("index", range(4))
def test_a_seed_gives_the_same_bytes(index):
    scenes = [FULL.scene(np.random.default_rng(index)) for _ in range(2)]
    pictures = [draw(scene) for scene in scenes]
    assert scenes[0] == scenes[1]
    assert pictures[0].image.tobytes() == pictures[1].image.tobytes()
    assert pictures[0].image.size == pictures[0].mask.size == (128, 128)


@pytest.mark.parametrize("species", SPECIES)
def test_a_subject_is_large_whole_and_inside_the_frame(species):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        look = replace(SMALL.look(rng), species=species, accessory=None)
        mask = pixels(draw(SMALL.scene(rng, look)).mask) / 255
        assert 0.08 < mask.mean() < 0.6
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert border.max() == 0


def test_another_subject_in_the_same_pose_leaves_the_rest_alone():
    scene = FULL.scene(np.random.default_rng(3), Look("cat", "red"))
    other = scene.with_look(Look("cat", "blue", "spotted", "yellow"))
    before, after = draw(scene), draw(other)
    assert after.mask.tobytes() == before.mask.tobytes()
    difference = np.abs(pixels(before.image) - pixels(after.image)).max(-1)
    outside = pixels(before.mask) == 0
    assert difference[outside].max() == 0
    assert difference[~outside].mean() > 20


def test_facing_mirrors_the_subject():
    pose = Pose(facing="right", x=0.5)
    right, left = (draw(Scene(Look("horse"), replace(pose, facing=f))).mask for f in ("right", "left"))
    # pixels are sampled at their corners, so mirroring moves an edge by up to a third of a pixel
    assert np.abs(pixels(right)[:, ::-1] - pixels(left)).mean() < 3
    assert np.abs(pixels(right) - pixels(left)).mean() > 15


@pytest.mark.parametrize("part", ["stride", "head", "tail", "tilt"])
def test_the_pose_is_articulated(part):
    masks = [pixels(draw(Scene(Look("cat"), replace(Pose(), **{part: value}))).mask) for value in (-0.8, 0.8)]
    assert np.abs(masks[0] - masks[1]).mean() > 2


@pytest.mark.parametrize("place", PLACES)
def test_places_vary_and_cover_the_canvas(place):
    one, same, other = (pixels(paint(place, 0.55, variation, 96)) for variation in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.abs(one - other).mean() > 1


def test_light_falls_on_everything():
    scene = Scene(Look(), Pose())
    day, night = (pixels(draw(replace(scene, light=light)).image) for light in ("day", "night"))
    assert (night.mean((0, 1)) < 0.85 * day.mean((0, 1))).all()


def test_captions_say_what_is_shown():
    scene = Scene(Look("cat", "orange", "striped", "white", "hat", "blue"), Pose(), "beach", "sunset")
    assert caption(scene) == "a photo of a striped orange and white cat with a blue hat on a beach at sunset"
    assert (
        caption(replace(scene, look=Look("elephant", "orange"))) == "a photo of an orange elephant on a beach at sunset"
    )


def test_captions_forget_but_never_the_species():
    rng = np.random.default_rng(0)
    scene = SMALL.scene(rng, Look("duck", "green", "spotted", "pink", "scarf", "red"))
    texts = [caption(scene, rng, forget=0.5) for _ in range(200)]
    assert all("duck" in text for text in texts)
    assert 60 < sum("green" in text for text in texts) < 140
    assert any("scarf" not in text for text in texts) and any("scarf" in text for text in texts)


def test_unseen_looks_never_occur_in_training():
    rng = np.random.default_rng(1)
    looks = [SMALL.look(rng) for _ in range(500)]
    assert not any(SMALL.unseen(look) for look in looks)
    assert SMALL.unseen(SMALL.look(rng, unseen=True))
    assert all(look.second != look.colour for look in looks)


@pytest.mark.parametrize(
    "wrong", [{"species": "unicorn"}, {"colour": "mauve"}, {"pattern": "tartan"}, {"accessory": "shoe"}]
)
def test_a_look_the_world_lacks_is_refused(wrong):
    with pytest.raises(ValueError, match="the world has"):
        Look(**wrong)


def test_a_place_the_world_lacks_is_refused():
    with pytest.raises(ValueError, match="places: floor"):
        Scene(Look(), Pose(), place="moon")
