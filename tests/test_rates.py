"""Rates that fall over a run: by how much, and what becomes of a run that is stopped, resumed or lengthened."""

from dataclasses import replace

import pytest
import torch
from test_dreambooth import QUICK, build, run, same

from train.learner import Learner
from train.rates import Rates

FALLING = replace(QUICK, rate_schedule="linear")


@pytest.mark.parametrize(
    ("config", "first", "wanted"),
    [
        (QUICK, 0, [8.0, 8.0, 8.0, 8.0]),
        (FALLING, 0, [8.0, 6.0, 4.0, 2.0]),
        (FALLING, 2, [8.0, 8.0, 8.0, 4.0]),  # the first two are another's to set
    ],
)
def test_rates_by_step(config, first, wanted):
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(1)], "lr": 8.0}, {"params": [torch.zeros(1)], "lr": 4.0}])
    rates, seen = Rates(optimizer, config, first), []
    for done in range(4):
        rates.set(done)
        seen.append([group["lr"] for group in optimizer.param_groups])
    assert seen == [[rate, rate / 2] for rate in wanted]


def test_a_step_learns_at_the_rate_of_its_turn(monkeypatch):
    seen = []
    before = Learner.step

    def step(self):
        loss = before(self)
        seen.append([group["lr"] for group in self.optimizer.param_groups])
        return loss

    monkeypatch.setattr(Learner, "step", step)
    run(build(), replace(FALLING, token_steps=1, token_learning_rate=0.5))
    assert [rates[0] for rates in seen] == pytest.approx([0.5, 1e-3, 1e-3 * 2 / 3, 1e-3 / 3])


def test_resuming_equals_never_having_stopped(tmp_path):
    whole, losses = run(build(), FALLING)
    constant, others = run(build(), QUICK)
    assert losses[:2] == pytest.approx(others[:2]) and not same(whole, constant)

    def stop(step, _):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(build(), FALLING, tmp_path, on_step=stop)
    resumed, rest = run(build(), FALLING, tmp_path, resume=True)
    assert rest == losses[2:] and same(whole, resumed)


def test_a_run_of_falling_rates_keeps_its_length(tmp_path):
    run(build(), replace(FALLING, checkpoint_every=2), tmp_path, keep_checkpoint=True)
    with pytest.raises(ValueError, match="steps was 4 and is 6; resume it with what it had"):
        run(build(), replace(FALLING, steps=6, checkpoint_every=2), tmp_path, resume=True)


def test_other_schedules_are_refused():
    with pytest.raises(ValueError, match="rate_schedule is 'cosine'; want one of constant, linear"):
        replace(QUICK, rate_schedule="cosine")
