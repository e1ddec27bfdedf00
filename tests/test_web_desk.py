"""photoswap.web.desk and rooms: one job at a time, told and stopped; a folder for each tab."""

import threading

import pytest

from photoswap.web.desk import Desk, Job, News, StoppedError
from photoswap.web.rooms import Folder, Rooms


def drained(desk, job):
    return [news.text for news in desk.follow(job)]


def test_a_job_tells_and_answers():
    desk, picture = Desk(), object()

    def work(job):
        job.tell("first", 0.1, picture)
        job.tell("last", 1.0)
        return 42

    job = desk.submit("counting", work)
    told = [*desk.follow(job)]
    assert job.result == 42
    assert told[-1] == News("last", 1.0, picture) or told == [News("first", 0.1, picture), News("last", 1.0)]


def test_a_job_s_mistake_is_its_caller_s():
    desk = Desk()

    def work(job):
        raise ValueError("no such cat")

    with pytest.raises(ValueError, match="no such cat"):
        drained(desk, desk.submit("failing", work))
    assert drained(desk, desk.submit("next", lambda job: job.tell("well"))) == ["well"]


def test_one_works_while_the_others_wait_and_are_told_for_whom():
    desk, go, running, most = Desk(), threading.Event(), [], []

    def work(job):
        running.append(job)
        most.append(len(running))
        assert go.wait(10)
        running.remove(job)

    first, second, third = (desk.submit(name, work) for name in ("learning", "swapping", "inverting"))
    waits = next(desk.follow(third))
    assert waits.share is None
    assert waits.text == "One job at a time: waiting for another to end (learning, and 1 more before yours)."
    assert next(desk.follow(second)).text == "One job at a time: waiting for another to end (learning)."
    go.set()
    assert drained(desk, first) == []
    for one in (second, third):  # whoever left the line early has stopped its job
        with pytest.raises(StoppedError):
            drained(desk, one)
    assert most == [1]


def test_a_stopped_job_ends_at_its_next_word_and_one_that_waits_never_begins():
    desk, begun, may_go_on, steps = Desk(), threading.Event(), threading.Event(), []

    def work(job):
        begun.set()
        may_go_on.wait(10)
        for step in range(10):
            steps.append(step)
            job.tell(f"step {step}")

    first, second = desk.submit("first", work), desk.submit("second", lambda job: steps.append("second"))
    assert begun.wait(10)
    first.stop(), second.stop()
    may_go_on.set()
    for job in (first, second):
        with pytest.raises(StoppedError):
            drained(desk, job)
    assert steps == [0]


def test_a_full_line_is_refused_in_a_sentence():
    desk, go = Desk(most_waiting=1), threading.Event()
    first = desk.submit("first", lambda job: go.wait(10))
    desk.submit("second", lambda job: None)
    with pytest.raises(ValueError, match="2 jobs are waiting already; try again in a while"):
        desk.submit("third", lambda job: None)
    go.set()
    drained(desk, first)


def test_only_the_last_news_is_read_but_no_picture_is_lost():
    job = Job("work", lambda job: None)
    assert job.latest() is None
    for text, picture in (("a", None), ("b", "picture"), ("c", None)):
        job.tell(text, 0.5, picture)
    assert job.latest() == News("c", 0.5, "picture")
    assert job.latest() is None


def test_a_folder_is_made_when_something_goes_in(tmp_path):
    first, second = Folder(tmp_path / "out"), Folder(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    mask = first.new("mask", ".png")
    assert mask == tmp_path / "out" / "session-1" / "mask-1.png"
    mask.touch()
    assert first.new("mask", ".png").name == "mask-2.png"
    assert second.new_folder("grid") == tmp_path / "out" / "session-2" / "grid-1"
    assert second.new_folder("grid").name == "grid-2"
    assert first.new("../../etc/passwd").parent == first.root


def test_every_tab_has_its_own_and_there_are_only_so_many():
    rooms = Rooms(list, most=2)
    assert rooms.of("a") is rooms.of("a") is not rooms.of("b")
    with pytest.raises(ValueError, match="2 tabs are open already; close one"):
        rooms.of("c")
    assert rooms.leave("a") == [] and rooms.leave("a") is None
    rooms.of("c")
