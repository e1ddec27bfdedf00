"""Null-text optimisation (arXiv:2211.09794, section 3.2, Algorithm 1): an empty prompt of its own for every step.

Plain DDIM inversion comes back to the picture at guidance 1, not at 7.5. Here the unconditional context of each step is
fitted, so that sampling under guidance lands on the trajectory that the inversion left. Each step starts from what the
one before it found.

Costs `ddim`, and for each step two rows and up to ten more with their gradients: minutes. Promises to come near the
picture at the guidance it was fitted for, and at no other; source and target are both led away from what was fitted.

The constants are those of the published code, stated for its 50 steps; at n steps the rate and the tolerance run
through the same range. A context narrower than those of the published models learns faster, by the root of how much
narrower it is: Adam moves each coordinate alike, so what a step does to products with the context grows with the root
of the width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import LEVELS
from models.free_memory import free_bytes
from models.stable_diffusion import StableDiffusion
from models.unet import UNet
from samplers import Step, guide, move

from . import ddim
from .file import scale_at
from .request import Inverted, Request

Land: TypeAlias = Callable[[Tensor], Tensor]

INNER_STEPS = 10
RATE, WIDTH = 1e-2, 768  # falls linearly to half; the context's width it was chosen for
TOLERANCE, GROWTH = 1e-5, 1e-3  # the loss at which a step is good enough, and what is added to it by the end


def invert(request: Request) -> Inverted:
    """Plain DDIM's trajectory, and the contexts that lead back along it. Raises ValueError in half precision."""
    trajectory, context = ddim.invert(request).trajectory, request.model.encode_text(request.prompt)
    scale = partial(scale_at, request.guidance_scale)
    shown = partial(request.shown, name="null-text")
    return Inverted(trajectory, fit_null_contexts(request.model, trajectory, context, scale, shown))


@torch.no_grad()
def fit_null_contexts(
    model: StableDiffusion,
    trajectory: Tensor,
    context: Tensor,
    scale: Callable[[int], float],
    shown: Callable[[Sequence[Step]], Iterable[Step]] = iter,
) -> Tensor:
    """The unconditional context of every sampling step, noisiest first: (n 77 c).

    trajectory: (n + 1 4 h w), clean first. context: of the source's prompt, (1 77 c). scale: guidance at a step index.
    shown: the steps as they pass, for progress. The prompt's own prediction is made once a step, the weights get no
    gradients, and the U-Net's activations are kept where memory has room for twice what they take, else recomputed.
    Raises ValueError in half precision, where the fit fails.
    """
    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"null-text optimisation in {model.dtype} does not converge; load the model in float32")
    n = len(trajectory) - 1
    null, latents, found = model.encode_text(""), trajectory[n:], []
    with _only_inputs_learn(model.unet, keep=2 * _activation_bytes(model, latents, context) < free_bytes(model.device)):
        for step in shown(model.schedule.sampling(n)):
            land = _landing(model, latents, step, context, scale(step.index))
            if scale(step.index) != 1:  # at 1 the null context has no effect
                null = _fit(null, land, trajectory[n - 1 - step.index][None], step.index / n)
            latents = land(null)
            found.append(null)
    return torch.cat(found)


def _landing(model: StableDiffusion, latents: Tensor, step: Step, context: Tensor, weight: float) -> Land:
    """One guided step from here, as a function of the null context."""

    def eps(context: Tensor) -> Tensor:
        return model.schedule.to_eps(model.unet(latents, step.t, context), latents, step)

    cond = eps(context)
    return lambda null: move(latents, guide(eps(null), cond, weight), step.alpha_from, step.alpha_to)


def _fit(null: Tensor, land: Land, wanted: Tensor, done: float) -> Tensor:
    """A null context with which one guided step lands where it is wanted. done: share of the steps done."""
    null = null.detach().clone().requires_grad_()
    adam = torch.optim.Adam([null], lr=RATE * max(1.0, WIDTH / null.shape[-1]) ** 0.5 * (1 - done / 2))
    for _ in range(INNER_STEPS):
        with torch.enable_grad():
            loss = F.mse_loss(land(null), wanted)
            adam.zero_grad()
            loss.backward()
        adam.step()
        if loss.item() < TOLERANCE + GROWTH * done:
            break
    return null.detach()


@contextmanager
def _only_inputs_learn(unet: UNet, keep: bool) -> Iterator[None]:
    """Gradients for what goes into the network and none for its weights; all is put back after.

    keep: activations for the backward pass, which then costs a third less time; else they are recomputed.
    """
    learning, checkpointing = [p for p in unet.parameters() if p.requires_grad], unet.gradient_checkpointing
    unet.gradient_checkpointing = not keep
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        unet.gradient_checkpointing = checkpointing
        for parameter in learning:
            parameter.requires_grad_(True)


def _activation_bytes(model: StableDiffusion, latents: Tensor, context: Tensor) -> int:
    """What one call keeps for its backward pass at the size of these latents.

    Counted on the smallest latents there are: attention is fused, so all that is kept grows with the places.
    """
    side, kept = 2 ** (LEVELS - 1), [0]
    own = {parameter.untyped_storage().data_ptr() for parameter in model.unet.parameters()}

    def count(tensor: Tensor) -> Tensor:
        kept[0] += tensor.nbytes * (tensor.untyped_storage().data_ptr() not in own)
        return tensor

    small, wanted = latents.new_zeros(1, latents.shape[1], side, side), context.clone().requires_grad_()
    counted = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with _only_inputs_learn(model.unet, keep=True), torch.enable_grad(), counted:
        model.unet(small, 0, wanted)
    return kept[0] * latents[0, 0].numel() // side**2
