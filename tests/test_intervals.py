"""Bootstrap intervals against cases whose answer is known."""

import numpy as np
import pytest

from photoswap.benchmark.intervals import FEWEST, Interval, bootstrap, paired


def test_values_that_are_all_alike_leave_no_doubt():
    assert bootstrap([3.0] * 10) == Interval(3.0, 3.0, 3.0, 10)
    assert bootstrap([3.0]) == Interval(3.0, 3.0, 3.0, 1)


def test_the_interval_is_that_of_a_normal_mean():
    values = np.random.default_rng(3).normal(5, 2, 100)
    found = bootstrap(values.tolist())
    half = 1.96 * values.std() / 10
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_two_values_give_the_quantiles_of_four_equally_likely_pairs():
    found = bootstrap([0.0, 1.0])
    assert (found.low, found.high, found.mean) == (0.0, 1.0, 0.5)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = [low <= 0 <= high for low, high in (bootstrap(rng.normal(size=30).tolist())[1:3] for _ in range(100))]
    assert 0.87 <= np.mean(held) <= 0.99


def test_pairs_tell_what_means_alone_do_not():
    rng = np.random.default_rng(1)
    tasks = rng.normal(20, 5, 16)
    better = tasks + 0.5 + rng.normal(0, 0.2, 16)
    apart = bootstrap(better.tolist()), bootstrap(tasks.tolist())
    assert apart[0].low < apart[1].high and paired(better.tolist(), tasks.tolist()).is_told
    assert paired(tasks.tolist(), tasks.tolist()) == Interval(0.0, 0.0, 0.0, 16)


def test_a_few_tasks_tell_nothing():
    assert not bootstrap([1.0] * (FEWEST - 1)).is_told and bootstrap([1.0] * FEWEST).is_told
    assert not bootstrap([1.0, -1.0] * FEWEST).is_told


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_what_is_no_number_is_refused(values):
    with pytest.raises(ValueError, match="want one or more, finite"):
        bootstrap(values)


def test_values_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired([1.0, 2.0], [1.0])
