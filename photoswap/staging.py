"""What the loop is given: source, target and reference as `Picture`s, made of inversions, prompts, words and masks."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from models.stable_diffusion import StableDiffusion

from .injections import SOURCE, TARGET
from .inversion import Inversion, uncond_contexts
from .method import Method
from .pictures import Picture
from .sizes import touched_cells
from .tokens import subject_tokens


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture of the subject to come, inverted at the source's size, and where it is there: white, of its size."""

    inversion: Inversion
    mask: Image.Image


def make_pictures(
    model: StableDiffusion,
    inversion: Inversion,
    method: Method,
    prompts: tuple[str, str],
    words: tuple[str | None, str | None] = (None, None),
    mask: Tensor | None = None,
) -> dict[str, Picture]:
    """Source and target for the loop, from an inversion, the two prompts, and the subject's words in them.

    mask: where the subject is in both, on the grid of the latents, (1 1 h w); methods know it as "subject".

    Raises ValueError for a prompt without its subject's word.
    """
    told = prompts[0] if method.source_prompt is None else method.source_prompt
    contexts, noise = model.encode_text([told, prompts[1]]), inversion.source_at(-1).to(model.device)
    uncond = uncond_contexts(model, inversion)
    if method.negative_prompt and inversion.null_contexts is not None:
        raise ValueError("null contexts leave no room for a negative prompt: invert by another way, or leave it out")
    away = model.encode_text(method.negative_prompt) if method.negative_prompt else uncond
    found = [
        () if word is None else tuple(subject_tokens(model.tokenizer, prompt, word))
        for prompt, word in zip(prompts, words, strict=True)
    ]
    # a stored trajectory runs from clean latents to noise; the loop wants what stands after each step
    known = inversion.trajectory[:-1].flip(0).to(model.device) if inversion.returns_stored else None
    masks = {} if mask is None else {"subject": mask[0, 0]}
    # told nothing, or what guidance leads away from, one row is both halves
    single = inversion.null_contexts is None and told in ("", inversion.uncond_prompt)
    half = None if single else uncond
    scale = method.guidance_scale if method.source_guidance_scale is None else method.source_guidance_scale
    clean = inversion.source_at(inversion.steps - 1).to(model.device)
    source = Picture(noise, contexts[:1], half, scale, known, found[0], masks=masks, clean=clean)
    alignments = method.alignments(model.tokenizer, *prompts)
    target = Picture(noise, contexts[1:], away, method.guidance_scale, None, found[1], alignments, masks)
    return {SOURCE: source, TARGET: target}


def reference_picture(model: StableDiffusion, reference: Reference, method: Method) -> Picture:
    """A reference for the loop: it stands where its inversion stood, under its own prompt."""
    inversion = reference.inversion
    if not inversion.returns_stored or inversion.method == "none":
        raise ValueError(f"the reference was inverted by {inversion.method}; want direct, whose latents are given back")
    noise = inversion.source_at(-1).to(model.device)
    known = inversion.trajectory[:-1].flip(0).to(model.device)
    uncond = None if inversion.prompt == "" else model.encode_text("")
    masks = {"subject": latent_region(model, inversion, reference.mask)[0, 0]}
    context = model.encode_text(inversion.prompt)
    return Picture(noise, context, uncond, method.guidance_scale, known, masks=masks)


def decoded_size(model: StableDiffusion, inversion: Inversion) -> tuple[int, int]:
    """The (width, height) in pixels that an inversion is of."""
    h, w = inversion.trajectory.shape[2:]
    return w * model.config.vae.factor, h * model.config.vae.factor


def latent_region(model: StableDiffusion, inversion: Inversion, mask: Image.Image) -> Tensor:
    """A user's mask on the grid of the inversion's latents, (1 1 h w) bool."""
    return touched_cells(mask, decoded_size(model, inversion), model.config.vae.factor).to(model.device)
