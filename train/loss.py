"""What training minimises: the squared error of the network's output, row by row.

The simple loss is DDPM's (arXiv:2006.11239, eq. 14), its target eps or v (arXiv:2202.00512, section 4 and appendix D).
DreamBooth adds the same error on pictures of the class drawn by the model itself (arXiv:2208.12242, eq. 2).
Min-SNR weighting (arXiv:2303.09556, section 3.4) is ours to offer and off by default; the paper has none.
"""

import torch
from torch import Tensor

from samplers import Schedule


def squared_error(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each row, at least in float32. output, target: (b c h w) of one shape. Returns (b,).

    mask: (b 1 h w), the weight of every place in its row's mean, some of it above 0 in every row; None weighs all
    alike.
    """
    if output.shape != target.shape:
        raise ValueError(f"output is {tuple(output.shape)} and target {tuple(target.shape)}; want one shape")
    dtype = torch.promote_types(torch.promote_types(output.dtype, target.dtype), torch.float32)
    errors = (output.to(dtype) - target.to(dtype)).square()
    if mask is None:
        return errors.flatten(1).mean(1)
    weights = mask.to(errors).expand_as(errors).flatten(1)
    return (errors.flatten(1) * weights).sum(1) / weights.sum(1)


def min_snr_weights(schedule: Schedule, t: Tensor, gamma: float) -> Tensor:
    """Weights that keep timesteps with little noise from drowning the rest: (b,) float64 on the CPU, in (0, 1].

    With snr = alpha_bar / (1 - alpha_bar) the weight is min(snr, gamma) / snr for eps and min(snr, gamma) / (snr + 1)
    for v: both weigh the error in x0 by min(snr, gamma). t: (b,) timesteps. gamma: above 0, 5 in the paper; else
    ValueError.
    """
    if not gamma > 0:
        raise ValueError(f"gamma of min-SNR weighting is {gamma}; want a number above 0 (the paper's is 5)")
    at = schedule.alpha_bar[t.to("cpu")]
    snr = at / (1 - at)
    return snr.clamp(max=gamma) / (snr if schedule.prediction == "eps" else snr + 1)


def dreambooth_loss(errors: Tensor, instances: int, prior_weight: float = 1.0) -> Tensor:
    """Mean error of the instance rows plus prior_weight times that of the class rows: a scalar.

    errors: (b,), the instance rows first. instances: how many those are, 1..b, else ValueError; with b there is no
    class row and no prior term.
    """
    if errors.ndim != 1 or not 1 <= instances <= len(errors):
        raise ValueError(f"errors are {tuple(errors.shape)} with {instances} instance rows; want (b,) and 1..b rows")
    loss = errors[:instances].mean()
    if instances == len(errors):
        return loss
    return loss + prior_weight * errors[instances:].mean()
