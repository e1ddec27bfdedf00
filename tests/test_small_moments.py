"""train.small_moments: AdamW with moments of one byte learns what AdamW learns, and goes on as if never stopped."""

from dataclasses import replace

import pytest
import torch
from benchmarks.measure import peak_bytes
from test_dreambooth import QUICK, build, learner_of, pictures, rows_of, run, same

import train.small_moments
from train.config import learn_config
from train.learn import CHECKPOINT_FILE
from train.learner import check_state
from train.memory import memory_of
from train.methods import method_of
from train.run_file import read_run
from train.small_moments import BLOCK, WIDE_EACH, SmallMoment, SmallMomentsAdamW, code_values, small_moment_shapes
from weights.load import load

CPU = torch.device("cpu")
SMALL = replace(QUICK, moments="8bit")
NUMBERS = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("signed", [True, False])
def test_the_values_are_those_of_dynamic_quantization(signed):
    """Counted by hand: in the highest power of ten 64 of either sign, or 128, half as many in the next."""
    table, between = code_values(signed, CPU)
    assert len(table) == 256 and len(between) == 255 and (table.diff() > 0).all()
    assert 0.0 in table and table[-1] == 1.0
    tops = [((table > 10.0**-k) & (table < 10.0 ** (1 - k))).sum().item() for k in (1, 2, 3)]
    assert tops == ([64, 32, 16] if signed else [128, 64, 32])
    assert (table < 0).sum() == (127 if signed else 0)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("length", [1, BLOCK, 3 * BLOCK + 5])
def test_what_is_kept_is_the_nearest_there_is(signed, length):
    numbers = drawn(length) * torch.logspace(-3, 3, length)
    numbers = numbers if signed else numbers.abs()
    kept = SmallMoment(torch.zeros(length, dtype=torch.uint8), torch.zeros(-(-length // BLOCK)), signed)
    kept.write(numbers)
    table, _ = code_values(signed, CPU)
    table = table if signed else table[1:]  # a root above zero stays so
    for start in range(0, length, BLOCK):
        block, largest = numbers[start : start + BLOCK], numbers[start : start + BLOCK].abs().max()
        wanted = (block[:, None] / largest - table).abs().amin(dim=1) * largest
        torch.testing.assert_close((kept.read()[start : start + BLOCK] - block).abs(), wanted, rtol=1e-3, atol=1e-7)


def test_a_root_above_zero_stays_so():
    kept = SmallMoment(torch.zeros(3, dtype=torch.uint8), torch.zeros(1), signed=False)
    kept.write(torch.tensor([1.0, 1e-12, 0.0]))
    assert kept.read().tolist() == [1.0, pytest.approx(3.25e-7), 0.0]
    kept.write(torch.zeros(3))
    assert kept.read().tolist() == [0.0] * 3


def course(kind, steps: int, dtype=torch.float32) -> torch.Tensor:
    """Where a parameter goes by gradients that point to a place, with noise."""
    parameter, goal = torch.nn.Parameter(torch.zeros(3, 700, dtype=dtype)), drawn(3, 700).to(dtype)
    optimizer = kind([{"params": [parameter], "lr": 1e-2}], **NUMBERS)
    for step in range(steps):
        parameter.grad = parameter.detach() - goal + drawn(3, 700, seed=step + 1).to(dtype) / 4
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_step_is_adamws(dtype):
    """Nothing has been rounded yet."""
    wanted = course(torch.optim.AdamW, 1, dtype)
    torch.testing.assert_close(course(SmallMomentsAdamW, 1, dtype), wanted, rtol=1e-5, atol=1e-7)


def test_many_steps_lead_where_adamws_lead():
    found, wanted = (course(kind, 60) for kind in (SmallMomentsAdamW, torch.optim.AdamW))
    assert (found - wanted).norm() / wanted.norm() < 0.05  # measured: 0.029, where gradients are mostly noise
    assert not torch.equal(found, wanted)


def test_pieces_are_the_same_as_the_whole(monkeypatch):
    whole = course(SmallMomentsAdamW, 3)
    monkeypatch.setattr(train.small_moments, "WIDENED_AT_ONCE", 2 * BLOCK)
    assert torch.equal(course(SmallMomentsAdamW, 3), whole)


def test_moving_weights_takes_no_more_than_is_counted_for_it():
    parameter = torch.nn.Parameter(torch.ones(2**16))
    parameter.grad = torch.ones(2**16)
    optimizer = SmallMomentsAdamW([{"params": [parameter], "lr": 1e-2}], **NUMBERS)
    optimizer.step()
    code_values(True, CPU), code_values(False, CPU)
    assert 0.5 < peak_bytes(optimizer.step) / (4 * WIDE_EACH * 2**16) < 1


def test_what_has_no_gradient_stays():
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = SmallMomentsAdamW([{"params": [parameter], "lr": 1e-2}], **NUMBERS)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(4)) and not optimizer.state


def test_a_learner_has_them_and_as_many_bytes_as_were_counted():
    learner = learner_of(model := build(), replace(SMALL, clip=0.0), rows_of(model), rows_of(model, 1))
    learner.step()
    assert isinstance(learner.optimizer, SmallMomentsAdamW)
    held = sum(value.nbytes for kept in learner.optimizer.state.values() for value in kept.values())
    assert held == memory_of(model.config, SMALL, 64, 2, CPU).moments
    numbers = sum(p.numel() for p in learner.parameters.values())
    assert 2 * numbers < held < 2.1 * numbers  # against 8 in float32


def test_resuming_equals_never_having_stopped(tmp_path):
    config = replace(SMALL, steps=4, checkpoint_every=2, token_steps=1)
    whole, losses = run(build(), config, tmp_path / "whole", keep_checkpoint=True)
    run(build(), replace(config, steps=2), tmp_path / "parts", keep_checkpoint=True)
    resumed, rest = run(build(), config, tmp_path / "parts", resume=True, keep_checkpoint=True)
    assert rest == losses[2:] and same(whole, resumed)
    (one, _), (other, _) = (read_run(tmp_path / name / CHECKPOINT_FILE) for name in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    with pytest.raises(ValueError, match="moments was '8bit' and is 'float32'"):
        run(build(), replace(config, moments="float32"), tmp_path / "whole", resume=True, overwrite=True)
    shapes = method_of(config).shapes(build(), config)
    exact = {name: t.float() if name.endswith("conv_in.weight.exp_avg") else t for name, t in one.items()}
    counts = {"instances": 2, "classes": 2}
    check_state(shapes, one, 4, counts, 1, "8bit")
    with pytest.raises(ValueError, match=r"exp_avg' is \(.*\) in torch.float32; want \(.*\), in uint8"):
        check_state(shapes, exact, 4, counts, 1, "8bit")


def test_the_loss_takes_the_same_course():
    """A tiny network; the slow test below has the miniature."""
    (_, small), (_, exact) = (run(build(), replace(QUICK, steps=25, moments=kind)) for kind in ("8bit", "float32"))
    assert small[0] == exact[0] and small != exact
    assert small == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
def test_the_loss_of_the_miniature_takes_the_same_course():
    """On DreamBooth's preset; the mean loss of the last ten steps has fallen alike."""
    config = learn_config("dreambooth", "miniature", "cat", steps=60, prior_weight=0.0)
    (_, small), (_, exact) = (
        run(load("miniature"), replace(config, moments=kind), references=pictures()) for kind in ("8bit", "float32")
    )
    assert small == pytest.approx(exact, rel=0.05, abs=0.01)


def test_a_block_may_be_short():
    assert small_moment_shapes((3, 100))["exp_avg_scale"] == ((2,), torch.float32)
    assert small_moment_shapes(())["exp_avg_sq_scale"] == ((1,), torch.float32)
