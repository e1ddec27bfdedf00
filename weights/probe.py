"""What a network predicts, asked of the network itself: one call on pure noise.

At the last timestep t = 999 the latents are noise but for a hundredth. A network that predicts the noise (arXiv:
2006.11239) then returns what it was given. One that predicts the velocity v = sqrt(alpha_bar) eps -
sqrt(1 - alpha_bar) x0 (arXiv:2202.00512, appendix D) returns its idea of the picture, negated, and of the noise at
most sqrt(alpha_bar) = 0.07. Nothing in the shapes tells the two apart, and read the wrong way every picture is noise.
"""

import warnings
from dataclasses import replace
from typing import TypeVar

import torch

from models.stable_diffusion import LatentDiffusion
from weights.recognise import Prediction, Recognised, predicting

Model = TypeVar("Model", bound=LatentDiffusion)
NOISE_SIDE = 16  # of the noise: a thousand numbers, by chance alike to 0.03
NEAR_ONE, NEAR_ZERO = 0.7, 0.3


@torch.no_grad()
def noise_response(model: LatentDiffusion) -> float:
    """How much of pure noise comes back in the network's answer to it, unconditionally: 1 all, 0 none.

    The regression of the answer on the noise; the correlation, which is blind to scale, would take even the trace of
    noise in a bland v for all of it. Channels are centred first. The noise is always the same. NaN if the answer is.
    """
    weight, channels = model.unet.conv_in.weight, model.config.unet.out_channels
    noise = torch.randn(1, channels, NOISE_SIDE, NOISE_SIDE, generator=torch.Generator().manual_seed(0))
    nothing, all_of_it = (
        torch.zeros_like(noise),
        torch.ones(1, 1, NOISE_SIDE, NOISE_SIDE),
    )  # of a picture is left, is repainted
    rows = [noise, model.beside(nothing, all_of_it)] if model.config.paints else [noise]
    asked = torch.cat(rows, 1).to(weight.device, weight.dtype)
    context = model.unconditional().to(weight.dtype)
    answer = model.unet(asked, model.config.noise.train_steps - 1, context)
    answer, noise = (x.to("cpu", torch.float64) for x in (answer, noise))
    centred = noise - noise.mean((2, 3), keepdim=True)
    return ((answer * centred).sum() / (centred * centred).sum()).item()


def verdict(found: float) -> Prediction | None:
    """What a response says. None: it is neither near 1 nor near 0, or no number."""
    if abs(found - 1) <= 1 - NEAR_ONE:
        return "eps"
    return "v" if abs(found) <= NEAR_ZERO else None


def settle(model: Model, told: Recognised, where: str) -> Model:
    """The model with its prediction settled, by the probe where nobody has said it.

    told: who says what it predicts; where that is sure the network is not asked. Warns with the probe's decision where
    nobody has said it, and when the probe contradicts what was said: a mere hint it overrules, anything else it leaves.
    Raises ValueError when nobody has said it and the probe cannot tell.
    """
    if told.sure:
        return model
    found = noise_response(model)
    seen = verdict(found)
    answer = f"it returns {found:.2f} of pure noise"
    said = told.config.noise.prediction
    if told.by is None:
        if seen is None:
            raise ValueError(
                f"nothing says whether {where} predicts eps or v, and a probe cannot tell ({answer}): say which "
                "(prediction, --prediction)"
            )
        warnings.warn(f"nothing says whether {where} predicts eps or v; a probe finds {seen}: {answer}", stacklevel=3)
        return replace(model, config=predicting(told.config, seen))
    if seen is not None and seen != said and told.hint:
        warnings.warn(
            f"{where} would predict {said} by {told.by}, and a probe finds {seen}: {answer}; it is read as {seen}, say "
            f"--prediction {said} if that is wrong",
            stacklevel=3,
        )
        return replace(model, config=predicting(told.config, seen))
    if seen is not None and seen != said:
        warnings.warn(
            f"{where} predicts {said} according to {told.by}, and {seen} according to a probe ({answer}): if pictures "
            f"come out as noise, say --prediction {seen}",
            stacklevel=3,
        )
    return model
