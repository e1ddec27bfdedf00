"""train.miniature.loop: the clock, the pace, and that a stopped training goes on where it was."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from test_parallel import in_two
from torch import nn

from train.miniature.loop import Budget, Trainer, pace, streams
from train.parallel import Team
from weights.atomic import HIDDEN


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when it is told to."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("train.miniature.loop.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def module(device, seed=0):
    """A Linear for Muon, one for AdamW, and biases."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(device)


def trainer(folder, device, steps=8, minutes=None, seed=0, **settings):
    return Trainer(module(device, seed), ("2.",), 0.05, Budget(steps, minutes), folder, **settings)


def loss_at(trainer, step):
    """Another task at every step, the same one whenever that step comes."""
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step)).to(trainer.params[0].device)
    return (trainer.module(x) - x[:, :2]).square().mean()


def run(trainer, until=None):
    """Train; stop after step `until`, which is then behind the trainer."""
    for step, share in trainer.progress():
        trainer.step(loss_at(trainer, step), share)
        if step == until:
            break
    return trainer


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_budget_of_steps():
    budget = Budget(4, None)
    assert [budget.tick() for _ in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert budget.step == 5


def test_a_budget_of_minutes_asks_the_clock_alone(clock):
    budget, shares = Budget(1, 2.0), []
    for seconds in (0, 30, 60, 20, 40):
        clock.now += seconds
        shares.append(budget.tick())
    assert shares == pytest.approx([0, 0.25, 0.75, 11 / 12, 1.0])
    assert budget.spent == 150


def test_time_between_two_runs_is_not_spent(clock, tmp_path, device):
    first = trainer(tmp_path, device, minutes=1.0)
    stream = first.progress()
    next(stream)
    clock.now += 30
    first.step(loss_at(first, 1), 0.0)
    assert next(stream) == (2, 0.5)
    first.save()
    clock.now += 1000
    again = trainer(tmp_path, device, minutes=1.0)
    clock.now += 1000  # reading the data, say
    stream = again.progress()
    assert next(stream) == (2, 0.5)
    clock.now += 15
    again.step(loss_at(again, 2), 0.5)
    assert next(stream) == (3, 0.75)


def test_the_pace_rises_quickly_and_falls_slowly():
    assert pace(0.0) == pytest.approx(0.05)
    assert pace(0.02) == pytest.approx(1.0) and pace(0.51) == pytest.approx(0.51) and pace(1.0) == pytest.approx(0.02)
    values = [pace(i / 1000) for i in range(1001)]
    assert all(a < b for a, b in pairwise(values[:21])) and all(a > b for a, b in pairwise(values[20:]))


def test_the_pace_sets_every_optimizers_rate(tmp_path, device):
    one = trainer(tmp_path, device)
    one.step(loss_at(one, 0), 0.51)
    assert [group["lr"] for o in one.optimizers for group in o.param_groups] == pytest.approx([0.05 * 0.51] * 2)
    assert all(not p.grad.any() for p in one.params if p.grad is not None)


def test_training_lowers_the_loss_and_ends_with_its_budget(tmp_path, device, capsys):
    one = trainer(tmp_path, device, steps=60)
    before = sum(loss_at(one, step).item() for step in range(20))
    run(one)
    assert sum(loss_at(one, step).item() for step in range(20)) < 0.7 * before
    assert one.budget.step == 60 and one.path.exists()
    assert list(trainer(tmp_path, device, steps=60).progress()) == []
    assert "100%" in capsys.readouterr().err


def test_a_stopped_run_goes_on_where_it_was(tmp_path, device):
    first = run(trainer(tmp_path, device), until=4)
    first.save()
    again = trainer(tmp_path, device, seed=1)  # other weights, until the checkpoint is read
    assert again.budget.step == 4 and again.budget.spent == first.budget.spent
    assert_same(again.module.state_dict(), first.module.state_dict())
    assert_same(again.ema, first.ema)
    for ours, theirs in zip(again.optimizers, first.optimizers, strict=True):
        assert str(ours.state_dict()) == str(theirs.state_dict())


def test_stopping_changes_nothing(tmp_path, device):
    whole = run(trainer(tmp_path / "whole", device))
    run(trainer(tmp_path / "parts", device), until=4).save()
    parts = run(trainer(tmp_path / "parts", device, seed=1))
    assert_same(parts.module.state_dict(), whole.module.state_dict())
    assert_same(parts.ema, whole.ema)


def test_another_module_than_the_checkpoints_is_refused(tmp_path, device):
    trainer(tmp_path, device).save()
    with pytest.raises(RuntimeError, match=r"2\.weight"):
        Trainer(nn.Sequential(nn.Linear(4, 6)).to(device), (), 0.05, Budget(8, None), tmp_path)


def test_the_average_follows_faster_at_first(tmp_path, device):
    """The decay is (1 + step) / (10 + step) until that passes ema."""
    one = trainer(tmp_path, device, ema=0.5)
    for step, decay in ((0, 0.1), (2, 0.25), (90, 0.5)):
        one.budget.step = step
        before = {name: tensor.clone() for name, tensor in one.ema.items()}
        one.step(loss_at(one, step), 0.5)
        for name, now in one.module.state_dict().items():
            torch.testing.assert_close(one.ema[name], decay * before[name] + (1 - decay) * now)
            assert not torch.equal(one.ema[name], now)


def test_a_save_that_fails_leaves_what_was_there(tmp_path, device, monkeypatch):
    one = trainer(tmp_path, device)
    one.save()
    before = one.path.read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        one.save()
    assert one.path.read_bytes() == before


def test_it_saves_now_and_then(tmp_path, device, clock):
    one = trainer(tmp_path, device, save_every=25.0)
    saved = []
    for step, share in one.progress():
        if one.path.exists():
            saved.append(step)
            one.path.unlink()
        clock.now += 10
        one.step(loss_at(one, step), share)
    assert saved == [4, 7]


def test_of_several_processes_one_writes_and_gradients_are_averaged(tmp_path, device, monkeypatch):
    one = trainer(tmp_path / "other", device)
    one.team = Team(1, 2)
    one.save()
    assert not one.path.exists()
    loss_at(one, 0).backward()
    own = [p.grad.clone() for p in one.params]
    monkeypatch.setattr(dist, "all_reduce", lambda flat: flat.add_(1.0))  # the other process has ones everywhere
    one.team.average(one.params)
    for p, grad in zip(one.params, own, strict=True):
        torch.testing.assert_close(p.grad, (grad + 1) / 2)
    monkeypatch.setattr(dist, "broadcast", lambda shared, rank: shared.fill_(0.25))
    assert one.team.first(0.75, device) == 0.25


def half_of(team, folder):
    """Rows 0, 2, ... of each step's in the first process, the others in the second."""
    one = trainer(folder, "cpu")
    assert one.team == team
    for step, share in one.progress():
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))[team.rank :: 2]
        one.step((one.module(x) - x[:, :2]).square().mean(), share)
        if team.leads and step == 4:
            one.save()


def test_two_processes_learn_what_one_does_with_the_rows_of_both(tmp_path):
    in_two(half_of, tmp_path / "two")
    one = trainer(tmp_path / "one", "cpu")
    for step, share in one.progress():
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        one.step((one.module(x) - x[:, :2]).square().mean(), share)
    two = trainer(tmp_path / "two", "cpu")
    assert two.budget.step == one.budget.step == 8
    for name, tensor in one.module.state_dict().items():
        torch.testing.assert_close(two.module.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)  # of steps of 0.05
        torch.testing.assert_close(two.ema[name], one.ema[name], rtol=1e-4, atol=1e-5)


def test_what_a_killed_run_left_half_written_is_cleared_though_nothing_more_is_saved(tmp_path, device):
    run(trainer(tmp_path, device, steps=2))
    left = tmp_path / f".checkpoint.pt.x{HIDDEN}"
    left.mkdir()
    (left / "lock").touch()
    run(trainer(tmp_path, device, steps=2))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_step_s_random_numbers_are_its_own():
    """Or a resumed training would see other pictures than one that was never stopped."""
    numbers = [
        (rng.random(), torch.rand(1, generator=noise).item()) for rng, noise in (streams(0, 0, i) for i in (3, 4))
    ]
    again = [(rng.random(), torch.rand(1, generator=noise).item()) for rng, noise in [streams(0, 0, 4)]]
    assert again == numbers[1:] and not set(numbers[0]) & set(numbers[1])
    assert streams(0, 1, 4)[0].random() != numbers[1][0] != streams(1, 0, 4)[0].random()
