"""How much noise there is at each timestep, which timesteps a sampler visits, and what a network's output means.

The forward process is z_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps (DDPM, arXiv:2006.11239, eq. 4). Stable
Diffusion spaces sqrt(beta) evenly and visits timesteps with leading spacing: multiples of train_steps // n, plus an
offset. A network predicts eps, or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (arXiv:2202.00512, section 4).
Both are affine in each other given z_t, so guidance may be applied before or after converting.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """One call of the network and one move of the latents.

    index: place among the sampling steps, 0 the noisiest; an inversion step bears the index of the step it undoes.
    t: training timestep at which the network is called. alpha_from, alpha_to: alpha_bar before and after the move.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a step
    t: int
    alpha_from: float
    alpha_to: float


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one checkpoint, and conversions between eps, v and x0.

    beta_start, beta_end: variances added at the first and last of train_steps timesteps, their roots evenly spaced.
    prediction: what the network's output is, "eps" or "v". offset: added to every visited timestep (1 in Stable
    Diffusion, 0 in some samplers). Raises ValueError for values that make no schedule.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_steps: int = 1000
    prediction: Literal["eps", "v"] = "eps"
    offset: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"betas run from {self.beta_start} to {self.beta_end}; want 0 < start <= end < 1")
        if self.train_steps < 1:
            raise ValueError(f"train_steps is {self.train_steps}; want at least 1")
        if self.prediction not in ("eps", "v"):
            raise ValueError(f'prediction is {self.prediction!r}; want "eps" or "v"')
        if not 0 <= self.offset < self.train_steps:
            raise ValueError(f"offset is {self.offset}; want 0..{self.train_steps - 1}")

    @cached_property
    def alpha_bar(self) -> Tensor:
        """Share of signal left at each timestep, the cumulative product of 1 - beta: (train_steps,), float64."""
        roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.train_steps, dtype=torch.float64)
        return (1 - roots.square()).cumprod(0)

    def timesteps(self, n: int) -> list[int]:
        """The n timesteps a sampler visits, noisiest first, leading spacing.

        The offset gives way where it would lead past the last timestep (only at n = train_steps). Raises ValueError
        unless 1 <= n <= train_steps.
        """
        if not 1 <= n <= self.train_steps:
            raise ValueError(f"{n} steps asked for; this schedule has room for 1..{self.train_steps}")
        stride = self.train_steps // n
        offset = min(self.offset, self.train_steps - 1 - (n - 1) * stride)
        return [i * stride + offset for i in reversed(range(n))]

    def sampling(self, n: int) -> list[Step]:
        """The n steps from noise to picture. The last ends at alpha_bar[0], not at 1, as the checkpoints were used."""
        timesteps = self.timesteps(n)
        alphas = [float(self.alpha_bar[t]) for t in [*timesteps, 0]]
        return [Step(i, t, alphas[i], alphas[i + 1]) for i, t in enumerate(timesteps)]

    def inversion(self, n: int) -> list[Step]:
        """The n steps from picture to noise: those of sampling backwards, each called at the timestep it moves to.

        DDIM inversion assumes eps(z_{t-1}, t) close to eps(z_t, t) (arXiv:2105.05233, appendix F).
        """
        return [Step(s.index, s.t, s.alpha_to, s.alpha_from) for s in reversed(self.sampling(n))]

    def to_eps(self, output: Tensor, latents: Tensor, t: int | Tensor | Step) -> Tensor:
        """The noise a network's output speaks of, at least float32.

        output, latents: (b ...). t: the latents' timestep, int, () or (b,); or a Step, and then they stand at its
        alpha_from, which in an inversion is not the level of the timestep at which the network is called.
        """
        output, latents, signal, noise = self._widened(output, latents, t)
        return output if self.prediction == "eps" else signal * output + noise * latents

    def to_x0(self, output: Tensor, latents: Tensor, t: int | Tensor | Step) -> Tensor:
        """The clean latents a network's output speaks of; arguments as in to_eps."""
        output, latents, signal, noise = self._widened(output, latents, t)
        if self.prediction == "eps":
            return (latents - noise * output) / signal
        return signal * latents - noise * output

    def target(self, x0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """What the network should have said of x0 noised with eps: eps itself, or v."""
        x0, eps, signal, noise = self._widened(x0, eps, t)
        return eps if self.prediction == "eps" else signal * eps - noise * x0

    def add_noise(self, x0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """x0 carried to timestep t with the noise eps. x0, eps: (b ...); t: int, () or (b,)."""
        x0, eps, signal, noise = self._widened(x0, eps, t)
        return signal * x0 + noise * eps

    def _widened(self, a: Tensor, b: Tensor, t: int | Tensor | Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a and b in their common type but at least float32, then sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t)."""
        if a.shape != b.shape:
            raise ValueError(f"tensors of shapes {tuple(a.shape)} and {tuple(b.shape)}; want the same shape")
        dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        level = [t.alpha_from] if isinstance(t, Step) else self.alpha_bar[torch.as_tensor(t, device="cpu")]
        level = torch.as_tensor(level, dtype=torch.float64).reshape(-1, *[1] * (a.ndim - 1))
        signal, noise = (x.to(a.device, dtype) for x in (level.sqrt(), (1 - level).sqrt()))
        return a.to(dtype), b.to(dtype), signal, noise
