"""How much noise there is at each timestep, which timesteps a sampler visits, and what a network's output means.

The forward process is z_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps (DDPM, arXiv:2006.11239, eq. 4). Stable
Diffusion spaces sqrt(beta) evenly and visits timesteps with leading spacing: multiples of train_steps // n, plus an
offset. A network predicts eps, or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (arXiv:2202.00512, section 4).
Both are affine in each other given z_t, so guidance may be applied before or after converting.

Some networks were trained up to pure noise, alpha_bar = 0 (zero terminal SNR, arXiv:2305.08891, algorithm 1), and are
sampled with trailing timesteps, which start there (table 2). At that level z_t is the noise, eps says nothing of the
picture and only v = -x0 does; so there, and only there, `to_eps` returns v, which `move` takes as such.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

WORDS = {
    "prediction": ("eps", "v"),
    "beta_schedule": ("scaled_linear", "linear"),
    "spacing": ("leading", "trailing", "linspace"),
}
MOST_TRAIN_STEPS = 100_000  # of training; published checkpoints have 1000


class Step(NamedTuple):
    """One call of the network and one move of the latents.

    index: place among the sampling steps, 0 the noisiest; an inversion step has the index of the step it undoes.
    t: training timestep at which the network is called. alpha_from, alpha_to: alpha_bar before and after the move.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which no step needs
    t: int
    alpha_from: float
    alpha_to: float


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one checkpoint, what its network predicts of them, and which of them a sampler visits.

    These are numbers of the checkpoint: `ModelConfig.noise` is one of these and nothing else says them. The defaults
    are Stable Diffusion 2.1.

    beta_start, beta_end: variances added at the first and last of train_steps timesteps. beta_schedule: between them
    their roots are evenly spaced ("scaled_linear") or they themselves are ("linear"). rescale_zero_snr: roots of
    alpha_bar are shifted and scaled so that the last is 0. prediction: what the network's output is, "eps" or "v".
    spacing: which timesteps n steps visit, see `timesteps`. offset: added to every one of them under leading spacing
    (1 in Stable Diffusion, 0 in some samplers). set_alpha_to_one: the last step ends at 1, not at alpha_bar[0].
    Raises ValueError for values that make no schedule.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_steps: int = 1000
    prediction: Literal["eps", "v"] = "v"
    offset: int = 1
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    spacing: Literal["leading", "trailing", "linspace"] = "leading"
    rescale_zero_snr: bool = False
    set_alpha_to_one: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"betas run from {self.beta_start} to {self.beta_end}; want 0 < beta_start <= beta_end < 1"
            )
        if not 2 <= self.train_steps <= MOST_TRAIN_STEPS:
            raise ValueError(f"train_steps is {self.train_steps}; want at least 2 and at most {MOST_TRAIN_STEPS}")
        if not 0 <= self.offset < self.train_steps:
            raise ValueError(f"offset is {self.offset}; want 0..{self.train_steps - 1}")
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {getattr(self, name)!r}; want one of {', '.join(map(repr, words))}")
        if self.rescale_zero_snr and self.prediction == "eps":
            raise ValueError(
                "rescale_zero_snr with prediction 'eps': the last timestep is nothing but noise, and eps says nothing "
                "of the picture there; give prediction 'v', or no rescaling"
            )

    @cached_property
    def alpha_bar(self) -> Tensor:
        """Share of signal left at each timestep, the cumulative product of 1 - beta: (train_steps,), float64."""
        if self.beta_schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.train_steps, dtype=torch.float64)
        else:
            roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.train_steps, dtype=torch.float64)
            betas = roots.square()
        alpha_bar = (1 - betas).cumprod(0)
        if not self.rescale_zero_snr:
            return alpha_bar
        signal = alpha_bar.sqrt()
        return ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])).square()

    def timesteps(self, n: int) -> list[int]:
        """The n timesteps a sampler visits, noisiest first (arXiv:2305.08891, table 2, counted from 0).

        leading: multiples of train_steps // n from 0 on, plus the offset, which is reduced where it would lead past the
        last timestep (only at n = train_steps). trailing: every (train_steps / n)th from the last one down. linspace:
        from the last to the first, both visited. Raises ValueError unless 1 <= n <= train_steps.
        """
        if not 1 <= n <= self.train_steps:
            raise ValueError(f"{n} steps asked for; this schedule has room for 1..{self.train_steps}")
        if self.spacing == "trailing":
            descending = np.arange(self.train_steps, 0, -self.train_steps / n)[:n]  # rounding may give it one more
            return [int(t) - 1 for t in descending.round()]  # in numpy, so that halves round as published
        if self.spacing == "linspace":
            return [round(i * ((self.train_steps - 1) / max(n - 1, 1))) for i in reversed(range(n))]
        stride = self.train_steps // n
        offset = min(self.offset, self.train_steps - 1 - (n - 1) * stride)
        return [i * stride + offset for i in reversed(range(n))]

    def sampling(self, n: int) -> list[Step]:
        """The n steps from noise to picture, each to the level of the next timestep visited.

        The last ends at alpha_bar[0], as Stable Diffusion was used, or at 1 where set_alpha_to_one says so.
        """
        timesteps = self.timesteps(n)
        last = 1.0 if self.set_alpha_to_one else float(self.alpha_bar[0])
        alphas = [*(float(self.alpha_bar[t]) for t in timesteps), last]
        return [Step(i, t, alphas[i], alphas[i + 1]) for i, t in enumerate(timesteps)]

    def inversion(self, n: int) -> list[Step]:
        """The n steps from picture to noise: those of sampling backwards, each called at the timestep it moves to.

        DDIM inversion assumes eps(z_{t-1}, t) close to eps(z_t, t) (arXiv:2105.05233, appendix F).
        """
        return [Step(s.index, s.t, s.alpha_to, s.alpha_from) for s in reversed(self.sampling(n))]

    def to_eps(self, output: Tensor, latents: Tensor, t: int | Tensor | Step) -> Tensor:
        """The noise that a network's output means, at least float32; at alpha_bar = 0 the output, v, itself.

        output, latents: (b ...). t: the latents' timestep, int, () or (b,); or a Step, and then they stand at its
        alpha_from, which in an inversion is not the level of the timestep at which the network is called.
        Raises ValueError where the shapes differ or t is outside 0..train_steps - 1, as all of these do.
        """
        output, latents, signal, noise = self._widened(output, latents, t)
        if self.prediction == "eps":
            return output
        eps = signal * output + noise * latents
        return torch.where(signal == 0, output, eps) if self.rescale_zero_snr else eps

    def to_x0(self, output: Tensor, latents: Tensor, t: int | Tensor | Step) -> Tensor:
        """The clean latents that a network's output means; arguments as in to_eps."""
        output, latents, signal, noise = self._widened(output, latents, t)
        if self.prediction == "eps":
            return (latents - noise * output) / signal
        return signal * latents - noise * output

    def target(self, x0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """What the network should output for x0 noised with eps: eps itself, or v."""
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
        level = torch.tensor(t.alpha_from, dtype=torch.float64) if isinstance(t, Step) else self._level(t)
        level = level.reshape(-1, *[1] * (a.ndim - 1))
        signal, noise = (x.to(a.device, dtype) for x in (level.sqrt(), (1 - level).sqrt()))
        return a.to(dtype), b.to(dtype), signal, noise

    def _level(self, t: int | Tensor) -> Tensor:
        """alpha_bar at timesteps, which must be timesteps: a negative one would quietly count from the end."""
        t = torch.as_tensor(t, device="cpu")
        last = self.train_steps - 1
        if t.is_floating_point() or t.dtype == torch.bool or bool(((t < 0) | (t > last)).any()):
            raise ValueError(f"t is {t.tolist()}; timesteps of this schedule are whole numbers from 0 to {last}")
        return self.alpha_bar[t]
