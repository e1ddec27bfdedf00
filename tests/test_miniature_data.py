"""train.miniature.data: streams of scenes, and the chunks that training reads."""

import json
from collections import Counter
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest

from train.miniature import data
from train.miniature.data import (
    SCENE_KINDS,
    SHARES,
    STREAMS,
    claim,
    draw_chunk,
    from_json,
    load_chunks,
    load_masks,
    mixed_scene_at,
    scene_at,
    to_json,
)
from train.world import FULL, SMALL, render

SIDE = 64


@pytest.fixture
def small(monkeypatch):
    """Chunks of three pictures of 64 px."""
    monkeypatch.setattr(data, "SIZE", SIDE)
    monkeypatch.setattr(data, "CHUNK_SIZE", 3)
    monkeypatch.setattr(data, "Pool", ThreadPool)  # which sees the smaller numbers


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["data", *map(str, arguments)])
    data.main()


def kind(scene):
    return "pair" if scene.others else "hidden" if scene.front else "single"


def test_a_scene_is_its_place_in_the_stream():
    assert scene_at(SMALL, 0, 5) == scene_at(SMALL, 0, 5)
    assert len({scene_at(*which) for which in ((SMALL, 0, 5), (SMALL, 0, 6), (SMALL, 1, 5))}) == 3
    for i in range(20):
        assert SMALL.unseen(scene_at(SMALL, 0, i, unseen=True).look) and not SMALL.unseen(scene_at(SMALL, 0, i).look)


def test_streams_are_not_redrawn_by_a_change_of_the_world():
    """The demo, the benchmark and the trained weights all hang on these scenes: a draw more or less moves them all."""
    scene = scene_at(SMALL, STREAMS["held out"], 3, unseen=True)
    assert (scene.look.species, scene.look.colour, scene.look.pattern, scene.place) == (
        "car",
        "pink",
        "checkered",
        "meadow",
    )
    assert scene.pose.x == pytest.approx(0.3802644997392301) and scene.variation == 1308458696


def test_a_mixed_stream_has_its_shares_and_keeps_single_scenes_as_they_are():
    scenes = [mixed_scene_at(SMALL, 3, i) for i in range(2000)]
    counts = Counter(map(kind, scenes))
    for name, share in zip(SCENE_KINDS, SHARES, strict=True):
        assert counts[name] / len(scenes) == pytest.approx(share, abs=0.035)  # three deviations of 2000 draws
    for i, scene in enumerate(scenes[:300]):
        assert kind(scene) != "single" or scene == scene_at(SMALL, 3, i)
        assert not any(SMALL.unseen(subject.look) for subject in scene.subjects)
    assert all(kind(mixed_scene_at(SMALL, 3, i, (0.0, 1.0, 0.0))) == "pair" for i in range(20))
    assert all(SMALL.unseen(mixed_scene_at(SMALL, 3, i, unseen=True).look) for i in range(50))


@pytest.mark.parametrize("index", range(12))
def test_a_scene_survives_json(index):
    scene = mixed_scene_at(FULL, 3, index, (0.2, 0.4, 0.4))
    line = to_json(scene)
    assert from_json(line) == scene and "\n" not in line
    assert render(from_json(line), 32).image.tobytes() == render(scene, 32).image.tobytes()


def test_a_scene_written_before_there_were_pairs_is_read():
    scene = scene_at(SMALL, 0, 4)
    values = json.loads(to_json(scene))
    del values["others"], values["front"]
    assert from_json(json.dumps(values)) == scene


def test_a_chunk_is_drawn_and_loaded(small, tmp_path):
    for number in (1, 0):
        draw_chunk(("small", 7, (0.0, 0.5, 0.5), False, number, tmp_path))
    chunks, scenes = load_chunks(tmp_path)
    masks = load_masks(tmp_path)
    assert scenes == [mixed_scene_at(SMALL, 7, i, (0.0, 0.5, 0.5)) for i in range(6)]
    assert [chunk.shape for chunk in chunks] == [(3, SIDE, SIDE, 3)] * 2
    assert all(isinstance(chunk, np.memmap) for chunk in (*chunks, *masks))
    assert {len(scene.subjects) for scene in scenes} == {1, 2}
    for i, scene in enumerate(scenes):
        drawn = render(scene, SIDE)
        assert np.array_equal(chunks[i // 3][i % 3], np.asarray(drawn.image))
        covered = np.any([np.asarray(mask) > 127 for mask in drawn.masks], axis=0)
        assert np.array_equal(np.unpackbits(masks[i // 3][i % 3], axis=-1).astype(bool), covered)


def test_folders_add_up(small, tmp_path):
    for seed in (7, 8):
        draw_chunk(("small", seed, SHARES, False, 0, tmp_path / str(seed)))
    chunks, scenes = load_chunks([tmp_path / "8", tmp_path / "7"])
    assert scenes == [mixed_scene_at(SMALL, seed, i) for seed in (8, 7) for i in range(3)]
    assert len(chunks) == len(load_masks([tmp_path / "8", tmp_path / "7"])) == 2
    with pytest.raises(ValueError, match="9 holds no drawn chunks"):
        load_chunks([tmp_path / "8", tmp_path / "9"])


def test_an_interrupted_run_goes_on(small, tmp_path, monkeypatch):
    count = iter(range(5))

    def until_stopped(scene, side):
        if next(count) == 4:
            raise KeyboardInterrupt
        return render(scene, side)

    draw_chunk(("small", 0, SHARES, False, 0, tmp_path))
    monkeypatch.setattr(data, "render", until_stopped)
    draw_chunk(("small", 0, SHARES, False, 1, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        draw_chunk(("small", 0, SHARES, False, 2, tmp_path))
    assert len(load_chunks(tmp_path)[1]) == 6
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("0000[01].*")}

    monkeypatch.setattr(data, "render", render)
    call(monkeypatch, "--out", tmp_path, "--count", 8, "--workers", 2)
    chunks, scenes = load_chunks(tmp_path)
    assert scenes == [mixed_scene_at(SMALL, 0, i) for i in range(9)]  # rounded up to complete chunks
    assert np.array_equal(chunks[2][2], np.asarray(render(scenes[8], SIDE).image))
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("name", [".jsonl", ".masks.npy"])
def test_a_chunk_is_there_when_all_its_files_are(small, tmp_path, monkeypatch, name):
    """A disk that fills up on the way leaves neither half a file nor a chunk that looks finished."""

    def full(path):
        if path.name.endswith(name):
            raise OSError(28, "No space left on device")
        return atomic(path)

    atomic = data.atomic
    monkeypatch.setattr(data, "atomic", full)
    with pytest.raises(OSError, match="No space"):
        draw_chunk(("small", 0, SHARES, False, 0, tmp_path))
    assert not [path for path in tmp_path.iterdir() if path.name == "00000.npy" or path.name.startswith(".")]
    with pytest.raises(ValueError, match="holds no drawn chunks"):
        load_chunks(tmp_path)


def test_a_folder_without_pictures_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"holds no drawn chunks; run python -m train\.miniature\.data"):
        load_chunks(tmp_path)


def test_a_folder_holds_one_stream(tmp_path):
    claim(tmp_path / "data", "small", 0)
    claim(tmp_path / "data", "small", 0)
    with pytest.raises(ValueError, match="choose another --out"):
        claim(tmp_path / "data", "small", 1)
    with pytest.raises(ValueError, match="choose another --out"):
        claim(tmp_path / "data", "small", 0, (1.0, 0.0, 0.0))


@pytest.mark.parametrize("name", ["held out", "judge", "development", "test"])
def test_streams_kept_for_judging_are_never_trained_on(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name!r}, which is not for training"):
        claim(tmp_path, "small", STREAMS[name])
    assert len(set(STREAMS.values())) == len(STREAMS)


def test_looks_kept_out_of_training_are_for_the_recogniser_alone(small, tmp_path, monkeypatch):
    call(monkeypatch, "--out", tmp_path / "unseen", "--count", 3, "--unseen")
    call(monkeypatch, "--out", tmp_path / "seen", "--count", 3)
    folders = [tmp_path / "seen", tmp_path / "unseen"]
    with pytest.raises(ValueError, match="unseen holds looks kept out of training"):
        load_chunks(folders)
    _, scenes = load_chunks(folders, unseen=True)
    assert [SMALL.unseen(scene.look) for scene in scenes] == [False] * 3 + [True] * 3
    with pytest.raises(ValueError, match="choose another --out"):
        claim(tmp_path / "unseen", "small", 0)


def test_shares_that_do_not_add_up_are_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "--out", tmp_path, "--count", 1, "--shares", 0.5, 0.5, 0.5)
    assert "give three that add up to 1" in capsys.readouterr().err
