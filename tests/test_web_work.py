"""The page's jobs without a page: learn, stop, go on, invert, swap, a grid, a mask; and the lines that repeat them.

On the tiny model; `tests/test_web_page.py` does the same in a browser, on the miniature.
"""

import json
import shlex
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import PROMPT, paint, refused
from PIL import Image

from models.images import load_image
from photoswap.__main__ import main
from photoswap.commands import learn as learn_command
from photoswap.web.desk import Desk, StoppedError
from photoswap.web.finding import Axis, find_mask, heat_of_words, read_values, swap_grid
from photoswap.web.forms import InvertForm, LearnForm, SwapForm, parsed
from photoswap.web.previews import Progress
from photoswap.web.rooms import Folder
from photoswap.web.session import Session
from photoswap.web.shelf import Shelf
from photoswap.web.tasks import SCENES, SUBJECTS, scene_example, subject_example
from photoswap.web.work import invert_picture, learn_concept, swap_subject

STEPS = 5


@pytest.fixture(scope="module")
def shelf(tiny):
    return Shelf(parsed(["web", *[word for word in tiny if word != "--quiet"]]))


@pytest.fixture(autouse=True)
def without_the_class(monkeypatch):
    """The preset of an unknown model has it draw 200 pictures of the class first; here it learns without."""
    usual = learn_command.configure
    monkeypatch.setattr(
        learn_command, "configure", lambda *asked: replace(usual(*asked), prior_weight=0.0, class_steps=2)
    )


@pytest.fixture
def session(shelf, tmp_path):
    """A tab whose source is in, with a mask."""
    session = Session(shelf, Folder(tmp_path / "out"))
    session.take_source(paint((150, 130), 3))
    return session


def done(session, work, *more):
    """What a job answers, and all that it tells."""
    desk = Desk()
    job = desk.submit("test", lambda job: work(session, job, *more))
    news = [*desk.follow(job)]
    return job.result, news


def stopping_after(work, words):
    """The same work, which somebody stops once it has said these words."""

    def stopped(session, job, form):
        tell = job.tell

        def stop_then(text, *more, **rest):
            tell(text, *more, **rest)
            if words in text:
                job.stop()

        job.tell = stop_then
        return work(session, job, form)

    return stopped


@pytest.fixture
def inverted(session):
    done(session, invert_picture, InvertForm(session.keep_source(), PROMPT, steps=STEPS, guidance=3.0))
    return session


def swap_form(session, **more):
    return replace(SwapForm(session.inversion[1], "dog", target="cat", counts=(("phi", 1), ("M", 3), ("A", 2))), **more)


def run(line, *more):
    """Run a line that the page shows."""
    assert main([*shlex.split(line)[1:], "--quiet", *more]) == 0


def test_the_line_that_is_shown_makes_the_same_files_byte_for_byte(inverted):
    session = inverted
    half = Image.new("L", (150, 130), 0)
    half.paste(255, (40, 30, 130, 110))
    session.masking.replace(half)
    found, news = done(session, swap_subject, swap_form(session, mask=session.keep_mask(), adain=True))
    assert any(one.picture is not None for one in news) and found.result.size == (150, 130)
    run(found.line)
    again = found.folder.with_name("result-1-again")
    for name in ("result.png", "grid.png"):
        assert (again / name).read_bytes() == (found.folder / name).read_bytes()
    ours, theirs = (json.loads((folder / "swap.json").read_text()) for folder in (found.folder, again))
    assert ours["settings"] == theirs["settings"] and ours["command"] == "swap"
    outside = np.asarray(half) == 0
    assert (np.asarray(found.result)[outside] == np.asarray(session.masking.picture)[outside]).all()
    assert refused_again(found.line)


def refused_again(line):
    """The line a second time, which replaces nothing."""
    return main(shlex.split(line)[1:]) == 2


def test_everything_from_the_beginning_is_the_same_again(session, pictures, tmp_path):
    """Learn, invert and swap by the lines of the page, from the references on: the same concept and the same result."""
    references = session.keep_pictures([load_image(path) for path in sorted((pictures / "references").iterdir())])
    name, _ = done(session, learn_concept, LearnForm(references, "cat", steps=2))
    assert name == "sks cat (concept-1)" and session.learning is None
    concept = session.concepts[name]
    done(session, invert_picture, InvertForm(session.keep_source(), PROMPT, concept, steps=STEPS))
    found, _ = done(
        session, swap_subject, SwapForm(session.inversion[1], "dog", concept, counts=(("phi", 1), ("A", 2)))
    )
    for kind, out in (("learn", "concept"), ("invert", "inversion.safetensors")):
        words = shlex.split(session.lines[kind])
        words[words.index("--out") + 1] = str(tmp_path / out)
        run(shlex.join(words))
    swap = session.lines["swap"].replace(str(session.inversion[1]), str(tmp_path / "inversion.safetensors"))
    run(swap.replace(concept, str(tmp_path / "concept" / "concept.safetensors")))
    again = found.folder.with_name("result-1-again")
    assert (again / "result.png").read_bytes() == (found.folder / "result.png").read_bytes()


def test_learning_stopped_goes_on_to_the_same_concept(session, pictures):
    references = session.keep_pictures([load_image(path) for path in sorted((pictures / "references").iterdir())])
    form = LearnForm(references, "cat", steps=4, sample_every=2)

    with pytest.raises(StoppedError):
        done(session, stopping_after(learn_concept, "step 2 of"), form)
    assert (
        session.learning is not None
        and session.concepts == {}
        and [label for _, label in session.samples] == ["step 2"]
    )
    name, news = done(session, learn_concept, None)
    assert "step 4 of 4, loss" in news[-1].text and news[-1].share == 1
    assert [label for _, label in session.samples] == ["step 2", "step 4"]
    other, _ = done(session, learn_concept, form)
    first, second = (Path(session.concepts[one]).read_bytes() for one in (name, other))
    assert first == second
    with pytest.raises(ValueError, match="no learning to go on with; press Learn"):
        done(session, learn_concept, None)


def test_a_swap_can_be_stopped_and_leaves_nothing(inverted):
    work = stopping_after(swap_subject, "step 2 of")
    with pytest.raises(StoppedError):
        done(inverted, work, swap_form(inverted))
    assert not (inverted.folder.root / "result-1").exists()


def test_a_grid_has_every_pair_and_its_cells_can_be_swapped_alone(inverted):
    form = swap_form(inverted)
    grid, news = done(inverted, swap_grid, form, Axis("phi", (0, 2, 3)), Axis("A", (0, 4)))
    assert [cell.counts for cell in grid.cells][:4] == [
        (("phi", 0), ("A", 0)),
        (("phi", 2), ("A", 0)),
        (("phi", 3), ("A", 0)),
        (("phi", 0), ("A", 4)),
    ]
    assert grid.columns == 3 and news[-1].share == 1 and grid.cells[1].label == "phi 2, A 0"
    record = json.loads((grid.folder / "grid.json").read_text())
    assert record[4]["lambdas"] == {"phi": 2, "A": 4} and "--phi 2 --M 3 --A 4" in record[4]["command"]
    run(record[4]["command"], "--overwrite")
    alone = load_image(grid.folder.with_name("cell") / "result.png").resize(grid.cells[4].picture.size, 1)
    difference = np.abs(np.asarray(alone, int) - np.asarray(grid.cells[4].picture, int))
    assert difference.max() <= 2  # a batch of several rounds some pixels by one, and Lanczos overshoots on enlarging
    assert len({cell.picture.tobytes() for cell in grid.cells}) == 6


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ((Axis("A", (0, 1)), Axis("A", (2,))), "both sides of the grid are A; choose two lambdas"),
        ((Axis("phi", (*range(7),)), Axis("A", (*range(6),))), "7 x 6 are too many cells; want at most 36"),
    ],
)
def test_a_grid_that_means_nothing_is_refused(inverted, axes, said):
    with pytest.raises(ValueError, match=said):
        done(inverted, swap_grid, swap_form(inverted), *axes)


def test_values_are_counts_of_steps():
    assert read_values(" 0, 5 5,10 ", 50) == (0, 5, 10)
    for text in ("", "a", "-1", "51", "0.5", "1e3", "٣"):
        with pytest.raises(ValueError, match="no counts of steps; want whole numbers from 0 to 50"):
            read_values(text, 50)


def test_a_word_finds_a_mask_that_is_kept_undone_and_written_once(inverted):
    assert inverted.keep_mask() is None
    done(inverted, find_mask, "dog", PROMPT, None)
    first = inverted.keep_mask()
    assert 0 < inverted.masking.share() < 1 and first == inverted.keep_mask()
    assert load_image(first).size == (150, 130)
    inverted.masking.replace(Image.new("L", (150, 130), 255))
    assert inverted.keep_mask() != first
    inverted.masking.undo(), inverted.masking.undo()
    assert inverted.keep_mask() is None
    with pytest.raises(ValueError, match="cow"):
        done(inverted, find_mask, "cow", PROMPT, None)


def test_every_word_has_its_heat(inverted):
    found, _ = done(inverted, heat_of_words, inverted.masking.picture, "a dog, a mat", None)
    assert [word for _, word in found] == ["a", "dog", "mat"]
    assert len({picture.tobytes() for picture, _ in found}) == 3
    with pytest.raises(ValueError, match="the prompt has no words"):
        done(inverted, heat_of_words, inverted.masking.picture, " , ", None)


def test_mistakes_are_told_in_one_sentence(session, inverted):
    with pytest.raises(ValueError, match="not inverted yet; press Invert"):
        done(Session(session.shelf, session.folder), swap_subject, swap_form(inverted))
    with pytest.raises(ValueError, match="say with --concept or --target"):
        done(inverted, swap_subject, swap_form(inverted, target=""))
    with pytest.raises(ValueError, match="no picture to put the subject into"):
        Session(session.shelf, session.folder).keep_source()
    inverted.take_source(paint((64, 64), 1))
    assert inverted.inversion is None and inverted.keep_mask() is None


def test_a_tab_has_one_job(session):
    desk, released = Desk(), threading.Event()
    first = desk.submit("first", lambda job: job.tell("working"))
    session.begin(first)
    second = desk.submit("second", lambda job: released.wait(60))
    first.ended.wait(10)
    session.begin(second)
    with pytest.raises(ValueError, match=r"this tab is busy \(second\); wait for it, or press Stop"):
        session.begin(desk.submit("third", lambda job: None))
    session.stop()
    released.set()


def test_progress_says_how_long_it_will_take(monkeypatch):
    told, clock = [], iter([0.0, 10.0, 20.0, 520.0])

    class Listener:
        def tell(self, text, share, picture=None):
            told.append((text, share))

    monkeypatch.setattr("photoswap.web.previews.time.perf_counter", lambda: next(clock))
    progress = Progress(Listener(), "Learning", 10)
    progress.step(1), progress.step(2), progress.loss(3, 0.5), progress.step(4)
    assert told == [
        ("Learning: step 1 of 10", 0.1),
        ("Learning: step 2 of 10, about 80 s left", 0.2),
        ("Learning: step 3 of 10, about 70 s left, loss 0.500", 0.3),
        ("Learning: step 4 of 10, about 17 min left", 0.4),
    ]


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_example_subject_is_four_pictures(name):
    example = subject_example(name)
    assert len(example.pictures) == 4 and example.class_word in name


@pytest.mark.parametrize("name", SCENES)
def test_an_example_scene_says_what_is_in_it(name):
    example = scene_example(name)
    assert example.subject in name and example.subject in example.prompt and example.picture.size == (128, 128)


def test_without_gradio_the_command_says_what_to_install(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("photoswap.web.server.find_spec", lambda name: None)
    said = refused(capsys, "web", "--out", tmp_path / "out")
    assert "the page wants Gradio, which is not installed: pip install 'photoswap[web]'" in said
    assert not (tmp_path / "out").exists()
