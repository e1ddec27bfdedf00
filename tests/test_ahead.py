"""train.ahead: rows drawn early are the rows that would have been drawn, and nobody can tell that they were."""

from dataclasses import replace

import pytest
import torch
from test_dreambooth import QUICK, build, learner_of, rows_of

from train.ahead import Ahead, sent
from train.data import Rows

CPU = torch.device("cpu")


def ahead_of(stream, other) -> Ahead:
    return Ahead({"a": stream, "b": other}, lambda: stream.next_rows(2).join(other.next_rows(1)), CPU)


def equal(one: Rows, other: Rows) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_rows_drawn_early_are_the_same_and_so_is_the_state_meanwhile():
    model = build()
    ahead, plain = (ahead_of(rows_of(model), rows_of(model, 1)) for _ in range(2))
    for _ in range(3):
        ahead.prepare()
        ahead.prepare()  # at most once
        held, wanted = ahead.state(), plain.state()
        assert held.keys() == wanted.keys() and all(torch.equal(held[key], wanted[key]) for key in wanted)
        again = ahead_of(rows_of(model), rows_of(model, 1))
        again.prepare()  # what it has drawn is of no state, and forgotten
        again.restore(held)
        rows = plain.take()
        assert equal(ahead.take(), rows) and equal(again.take(), rows)


def test_a_step_draws_the_next_rows_before_it_waits_for_the_loss(monkeypatch):
    learner = learner_of(model := build(), replace(QUICK, steps=3, accumulate=2), rows_of(model), rows_of(model, 1))
    told = []
    monkeypatch.setattr(Ahead, "prepare", lambda self, done=Ahead.prepare: (told.append("drawn"), done(self)))
    monkeypatch.setattr(
        torch.Tensor, "item", lambda self, done=torch.Tensor.item: (told.append("asked"), done(self))[1]
    )
    monkeypatch.setattr("models.unet._check_timesteps", lambda *_: None)  # looks at its own, which are on the CPU
    learner.step()
    assert told[:4] == ["drawn", "drawn", "asked", "asked"]
    learner.step()
    assert learner.ahead.rows is not None
    learner.step()
    assert learner.ahead.rows is None  # none is drawn that no step will learn from


def test_only_what_the_network_works_on_is_sent():
    rows = Rows(*(torch.zeros(2, 1) for _ in Rows._fields))
    found = sent(rows, torch.device("meta"))
    assert {name: column.device.type for name, column in found._asdict().items()} == {
        **dict.fromkeys(Rows._fields, "cpu"),
        **dict.fromkeys(("x0", "eps"), "meta"),
    }


@pytest.mark.gpu
def test_the_gpu_gets_them_without_waiting():
    rows = Rows(*(torch.arange(4.0) for _ in Rows._fields))
    found = sent(rows, torch.device("cuda"))
    assert found.x0.device.type == "cuda" and torch.equal(found.x0.cpu(), rows.x0)
