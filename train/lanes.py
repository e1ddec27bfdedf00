"""Two pieces of a batch side by side, each in a thread of its own.

Where the layers are so small that a team of threads brings nothing (models/threads.py) a second core is idle. Rows of a
batch know nothing of each other, so half of them can go forward and back beside the other half; the threads wait for
each other once a step and not once a layer. What they compute does not depend on who comes first: a gradient is the sum
of two.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from models.stable_diffusion import StableDiffusion
from models.threads import spare_cores
from train.config import LearnConfig
from train.data import Rows


def lanes_pay(model: StableDiffusion, config: LearnConfig, processes: int) -> bool:
    """Whether a batch is worth two lanes: where a core would be idle otherwise.

    Not where more than two gradients are added up (several batches a step, whose sum would go by who comes first),
    where several processes learn, for a loss of rows together, and where activations are computed twice.
    """
    apart = processes == config.accumulate == 1 and not (config.attention_loss or config.gradient_checkpointing)
    return apart and spare_cores(model) > 0


def cut_in_two(rows: Rows, instances: int, prior_weight: float) -> list[tuple[Rows, float]]:
    """Rows in two pieces, each with the weight that the mean of its errors has in the loss (`dreambooth_loss`).

    The subject's rows come first, `instances` of them, and the class' are the other half; without any the subject's
    are cut in two. One row is one piece.
    """
    count = len(rows.t)
    if count > instances:
        return [(rows.part(0, instances), 1.0), (rows.part(instances), prior_weight)]
    if count == 1:
        return [(rows, 1.0)]
    cut = count // 2
    return [(rows.part(0, cut), cut / count), (rows.part(cut), 1 - cut / count)]


class Lanes:
    """Threads that each take a piece of a batch forward and back."""

    def __init__(self) -> None:
        self.other = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))

    def backward(self, losses: Sequence[Callable[[], Tensor]], inputs: Sequence[nn.Parameter] | None) -> Tensor:
        """Compute up to two losses and their gradients, side by side. Returns their sum, a scalar.

        inputs: what a gradient is wanted of, None for everything.
        """

        def one(loss: Callable[[], Tensor]) -> Tensor:
            value = loss()
            value.backward(inputs=inputs)
            return value.detach()

        *first, last = losses
        elsewhere = [self.other.submit(one, loss) for loss in first]
        try:
            value = one(last)
        finally:  # nobody goes on while the other is still at work
            found = [each.result() for each in elsewhere]
        return sum(found, value)
