"""Two threads that each take half of a batch: the same numbers, the same each time, and only where it is worth it."""

from dataclasses import replace

import pytest
import torch
from test_dreambooth import QUICK, build, pictures, rows_of, run, same
from test_learn_lora import WHOLE

import train.lanes
from train.config import TextualInversionConfig
from train.lanes import Lanes, cut_in_two, lanes_pay
from train.learn import learn

FIRST = replace(QUICK, steps=4, token_steps=2)


@pytest.fixture
def idle(monkeypatch):
    """A core is idle; what was computed side by side."""
    monkeypatch.setattr(train.lanes, "spare_cores", lambda model: 1)
    seen, backward = [], Lanes.backward

    def watched(self, losses, inputs):
        seen.append(len(losses))
        return backward(self, losses, inputs)

    monkeypatch.setattr(Lanes, "backward", watched)
    return seen


@pytest.mark.parametrize(
    "config",
    [
        QUICK,
        FIRST,
        replace(QUICK, prior_weight=0.3),
        replace(QUICK, prior_weight=0.0, batch=2),
        replace(FIRST, batch=3, min_snr=5.0),
        replace(FIRST, batch=1),
        replace(QUICK, mask_loss=True),
        replace(WHOLE, steps=2),
        TextualInversionConfig(class_word="cat", steps=2, batch=2),
    ],
    ids=["plain", "token", "prior", "no-prior", "odd", "one", "masks", "lora", "word"],
)
def test_two_lanes_learn_what_one_learns(idle, monkeypatch, config):
    """In float64 to 1e-9 of the largest number, and bit for bit the same when done again."""
    more = {"masks": [picture.convert("L") for picture in pictures()]} if getattr(config, "mask_loss", False) else {}

    def learnt():
        return run(build(dtype=torch.float64), config, **more)

    (split, losses), (again, more_losses) = learnt(), learnt()
    assert idle and set(idle) <= {1, 2} and 2 in idle
    assert same(split, again) and losses == more_losses
    done = len(idle)
    monkeypatch.setattr(train.lanes, "spare_cores", lambda model: 0)
    whole, whole_losses = learnt()
    assert len(idle) == done and losses == pytest.approx(whole_losses, rel=1e-9)
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(split.tensors[name], tensor, rtol=1e-9, atol=1e-9 * float(tensor.abs().max()))


def test_lanes_resume_bit_for_bit(idle, tmp_path):
    whole, losses = run(build(), FIRST)
    run(build(), replace(FIRST, steps=3, checkpoint_every=3), tmp_path, keep_checkpoint=True)
    resumed, rest = run(build(), FIRST, tmp_path, resume=True)
    assert same(whole, resumed) and rest == losses[3:] and 2 in idle


def test_what_the_other_lane_finds_amiss_is_told(idle, monkeypatch):
    def amiss(self, rows, weight):
        raise ValueError("amiss") if rows.text.max() > 0 else ArithmeticError("only here")

    monkeypatch.setattr("train.learner.Learner._piece", amiss)
    with pytest.raises((ValueError, ArithmeticError), match=r"amiss|only here"):
        learn(build(), pictures(), QUICK, progress=False)


def test_one_lane_where_two_would_not_do(monkeypatch):
    model = build()
    monkeypatch.setattr(train.lanes, "spare_cores", lambda model: 1)
    assert lanes_pay(model, QUICK, 1)
    for config in (
        replace(QUICK, accumulate=2),
        replace(QUICK, mask_loss=True, attention_loss=0.1),
        replace(QUICK, gradient_checkpointing=True),
    ):
        assert not lanes_pay(model, config, 1)
    assert not lanes_pay(model, QUICK, processes=2)
    monkeypatch.setattr(train.lanes, "spare_cores", lambda model: 0)
    assert not lanes_pay(model, QUICK, 1)


def test_halves_are_the_whole():
    rows = rows_of(build()).next_rows(5)
    for instances in (5, 3):
        pieces = cut_in_two(rows, instances, 0.5)
        for name in rows._fields:
            assert torch.equal(torch.cat([getattr(piece, name) for piece, _ in pieces]), getattr(rows, name))
    assert [weight for _, weight in cut_in_two(rows, 5, 0.5)] == [0.4, 0.6]
    assert [weight for _, weight in cut_in_two(rows, 3, 0.5)] == [1.0, 0.5]
