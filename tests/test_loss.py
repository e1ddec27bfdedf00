"""train.loss against the formulas written out, and what the weights mean."""

import pytest
import torch

from samplers import Schedule
from train.loss import dreambooth_loss, min_snr_weights, squared_error


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_squared_error_is_the_mean_of_each_row(device):
    output, target = rows(3).to(device), rows(3, 1).to(device)
    error = squared_error(output, target)
    for i in range(3):
        assert torch.isclose(error[i], torch.nn.functional.mse_loss(output[i], target[i]))


def test_squared_error_of_half_precision_is_taken_in_float32():
    output = torch.full((1, 8), 300.0, dtype=torch.float16)  # its square overflows float16
    assert squared_error(output, torch.zeros_like(output)).item() == 90000.0


def test_squared_error_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="one shape"):
        squared_error(rows(2), rows(1))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_min_snr_weighs_the_error_in_x0_by_the_clamped_snr(prediction):
    schedule = Schedule(prediction=prediction)
    t = torch.tensor([1, 100, 500, 999])
    x0, eps, output = rows(4), rows(4, 1), rows(4, 2)
    noisy = schedule.add_noise(x0, eps, t)
    weighted = min_snr_weights(schedule, t, 5.0) * squared_error(output, schedule.target(x0, eps, t))
    at = schedule.alpha_bar[t]
    wanted = (at / (1 - at)).clamp(max=5.0) * squared_error(schedule.to_x0(output, noisy, t), x0)
    torch.testing.assert_close(weighted, wanted, rtol=1e-9, atol=0)


def test_min_snr_refuses_a_gamma_that_is_not_positive():
    with pytest.raises(ValueError, match="above 0"):
        min_snr_weights(Schedule(), torch.tensor([1]), 0.0)


def test_prior_term_is_weighted_and_optional():
    errors = torch.tensor([1.0, 3.0, 10.0, 20.0])
    assert dreambooth_loss(errors, 2, 0.5).item() == 2.0 + 0.5 * 15.0
    assert dreambooth_loss(errors[:2], 2, 0.5).item() == 2.0
    with pytest.raises(ValueError, match="instance rows"):
        dreambooth_loss(errors, 5)
