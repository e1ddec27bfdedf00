"""The drawn world: deterministic, inside the frame, exact under a change of subject, and truly described."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from train.world import (
    COLOURS,
    FRONTS,
    FULL,
    PATTERNS,
    SMALL,
    SPECIES,
    Front,
    Look,
    Pose,
    Scene,
    Subject,
    backdrop,
    caption,
    render,
)
from train.world.backgrounds import LIGHTS, PLACES, draw_background


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


def test_the_full_world_is_as_wide_as_it_says():
    assert len(SPECIES) >= 10 and len(COLOURS) >= 8 and len(PATTERNS) >= 4 and len(PLACES) >= 6 and len(LIGHTS) >= 2
    assert set(SMALL.species) <= set(FULL.species) and set(SMALL.places) <= set(FULL.places)


@pytest.mark.parametrize("index", range(4))
def test_a_seed_gives_the_same_bytes(index):
    scenes = [FULL.scene(np.random.default_rng(index)) for _ in range(2)]
    pictures = [render(scene) for scene in scenes]
    assert scenes[0] == scenes[1]
    assert pictures[0].image.tobytes() == pictures[1].image.tobytes()
    assert pictures[0].image.size == pictures[0].mask.size == (128, 128)


@pytest.mark.parametrize("species", SPECIES)
def test_a_subject_is_large_whole_and_inside_the_frame(species):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        look = replace(SMALL.look(rng), species=species, accessory=None)
        mask = pixels(render(SMALL.scene(rng, look)).mask) / 255
        assert 0.08 < mask.mean() < 0.6
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert border.max() == 0


def test_another_subject_in_the_same_pose_leaves_the_rest_alone():
    scene = FULL.scene(np.random.default_rng(3), Look("cat", "red"))
    other = scene.with_look(Look("cat", "blue", "spotted", "yellow"))
    before, after = render(scene), render(other)
    assert after.mask.tobytes() == before.mask.tobytes()
    difference = np.abs(pixels(before.image) - pixels(after.image)).max(-1)
    outside = pixels(before.mask) == 0
    assert difference[outside].max() == 0
    assert difference[~outside].mean() > 20


def test_facing_mirrors_the_subject():
    pose = Pose(facing="right", x=0.5)
    right, left = (render(Scene(Look("horse"), replace(pose, facing=f))).mask for f in ("right", "left"))
    # pixels are sampled at their corners, so mirroring moves an edge by up to a third of a pixel
    assert np.abs(pixels(right)[:, ::-1] - pixels(left)).mean() < 3
    assert np.abs(pixels(right) - pixels(left)).mean() > 15


@pytest.mark.parametrize("part", ["stride", "head", "tail", "tilt"])
def test_the_pose_is_articulated(part):
    masks = [pixels(render(Scene(Look("cat"), replace(Pose(), **{part: value}))).mask) for value in (-0.8, 0.8)]
    assert np.abs(masks[0] - masks[1]).mean() > 2


@pytest.mark.parametrize("place", PLACES)
def test_places_vary_and_cover_the_canvas(place):
    one, same, other = (pixels(draw_background(place, 0.55, variation, 96)) for variation in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.abs(one - other).mean() > 1


def test_light_falls_on_everything():
    scene = Scene(Look(), Pose())
    day, night = (pixels(render(replace(scene, light=light)).image) for light in ("day", "night"))
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


def test_a_front_the_world_lacks_is_refused():
    with pytest.raises(ValueError, match="fence, bush, box"):
        Front("wall")


# Two subjects, and something in front


def covered(mask):
    return pixels(mask) > 127


@pytest.mark.parametrize("seed", range(8))
def test_two_subjects_stand_side_by_side_and_are_seen(seed):
    scene = FULL.pair(np.random.default_rng(seed))
    drawn = render(scene)
    left, right = map(covered, drawn.masks)
    assert len(scene.subjects) == 2 and scene.subjects[0].look.species != scene.subjects[1].look.species
    assert not (left & right).any()
    assert left.mean() > 0.03 and right.mean() > 0.03
    assert np.nonzero(left)[1].mean() + 30 < np.nonzero(right)[1].mean()
    for mask in drawn.masks:
        assert max(np.asarray(mask)[edge].max() for edge in (0, -1)) == 0
        assert max(np.asarray(mask)[:, edge].max() for edge in (0, -1)) == 0


@pytest.mark.parametrize("which", [0, 1])
def test_either_of_two_subjects_is_redrawn_alone(which):
    first, second = Look("cat", "red"), Look("duck", "green")
    scene = replace(SMALL.pair(np.random.default_rng(1), first), others=())
    scene = replace(scene, others=(Subject(second, replace(scene.pose, x=0.73)),))
    look = replace(scene.subjects[which].look, colour="blue", pattern="striped", second="yellow")
    other = scene.with_look(look, which)
    assert other.subjects[which].look == look and other.subjects[1 - which] == scene.subjects[1 - which]
    before, after = render(scene), render(other)
    assert [mask.tobytes() for mask in before.masks] == [mask.tobytes() for mask in after.masks]
    difference = np.abs(pixels(before.image) - pixels(after.image)).max(-1)
    outside = pixels(before.masks[which]) == 0
    assert difference[outside].max() == 0 and difference[~outside].mean() > 20


def test_a_subject_that_is_not_there_cannot_be_redrawn():
    with pytest.raises(ValueError, match="no subject 1: the scene has 1"):
        Scene(Look(), Pose()).with_look(Look(), 1)


def test_the_nearer_subject_hides_the_other():
    near, far = Pose(x=0.45, floor=0.92, size=0.6), Pose(x=0.55, floor=0.84, size=0.6)
    for poses in ((near, far), (far, near)):
        drawn = render(Scene(Look("cat", "red"), poses[0], others=(Subject(Look("car", "blue"), poses[1]),)))
        alone = [render(Scene(look, pose)).mask for look, pose in ((Look("cat"), poses[0]), (Look("car"), poses[1]))]
        index = poses.index(near)
        assert drawn.masks[index].tobytes() == alone[index].tobytes()
        assert covered(drawn.masks[1 - index]).sum() < 0.8 * covered(alone[1 - index]).sum()


@pytest.mark.parametrize("name", FRONTS)
def test_what_is_in_front_hides_a_part_and_stays_when_the_subject_changes(name):
    scenes = (FULL.hidden(np.random.default_rng(seed)) for seed in range(60))
    hidden = []
    for scene in [scene for scene in scenes if scene.front.name == name][:6]:
        drawn, free = render(scene), render(replace(scene, front=None))
        hidden.append(1 - covered(drawn.mask).sum() / covered(free.mask).sum())
        assert not (covered(drawn.mask) & ~covered(free.mask)).any()
        kept = pixels(drawn.mask) == 0
        other = render(scene.with_look(replace(scene.look, colour="blue" if scene.look.colour != "blue" else "red")))
        assert np.abs(pixels(other.image) - pixels(drawn.image)).max(-1)[kept].max() == 0
    assert 0.08 < np.mean(hidden) < 0.4 and max(hidden) < 0.7


def test_captions_name_both_subjects_and_what_is_in_front():
    scene = Scene(Look("cat", "red"), Pose(), "snow", "night", others=(Subject(Look("duck", "orange"), Pose(x=0.7)),))
    assert caption(scene) == "a photo of a red cat and an orange duck in the snow at night"
    assert caption(scene, mirrored=True) == "a photo of an orange duck and a red cat in the snow at night"
    scene = Scene(Look("cat", "red", accessory="hat"), Pose(), "beach", front=Front("fence"))
    assert caption(scene) == "a photo of a red cat with a blue hat behind a fence on a beach"
    rng = np.random.default_rng(0)
    assert all("behind a fence" in caption(scene, rng, forget=0.9) for _ in range(20))


@pytest.mark.parametrize("draw", [SMALL.scene, SMALL.pair, SMALL.hidden])
def test_a_backdrop_is_the_picture_without_its_subjects(draw):
    scene = draw(np.random.default_rng(5))
    drawn, empty = render(scene), backdrop(scene)
    touched = np.any([pixels(mask) > 0 for mask in drawn.masks], axis=0)
    differs = (pixels(drawn.image) != pixels(empty)).any(axis=2)
    assert not (differs & ~touched).any() and differs[touched].mean() > 0.9
