"""Float32 that is float32, on a GPU too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Have float32 matrix products and convolutions keep all their bits, and put the settings back afterwards.

    On a GPU torch rounds the operands of convolutions to TF32 unless told otherwise, ten bits instead of 23, and of
    matrix products where a program has asked for it. Half precision is not concerned, nor is the CPU. These are
    settings of the whole process, so library code leaves them alone: the command line runs within this, and so does
    whoever compares numbers.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
