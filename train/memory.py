"""How much memory learning takes, counted before it begins.

Nothing is estimated: the very networks, method and optimizer are run on tensors that have a shape and no numbers
(torch's fake tensors), and every allocation and release is added up, forwards and backwards. A step of Stable Diffusion
takes seconds so and no memory. What is not seen is what libraries take inside of one operation; see RESERVE.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.config import ModelConfig
from models.free_memory import free_bytes
from models.stable_diffusion import StableDiffusion
from models.text_encoder import TextEncoder
from models.tokenizer import Tokenizer
from models.unet import UNet
from models.vae import Autoencoder
from train.break_a_scene import attention_error
from train.config import LearnConfig
from train.data import PIXELS_AT_ONCE, Stream, encode_moments
from train.learner import Learner
from train.loss import dreambooth_loss, squared_error
from train.ready import ready_to_learn
from train.small_moments import WIDE_EACH, WIDENED_AT_ONCE, SmallMomentsAdamW, small_moment_bytes
from weights.load import networks_of

ALLOWANCE = 10**9  # what libraries may take inside of one operation, and lose between what they were given
SOME_STEP = 500  # which timestep it is changes no shape
FAR_ABOVE = 1000  # activations of a row, in planes as large as the U-Net's first: 300 in Stable Diffusion


@dataclass(frozen=True)
class StepMemory:
    """Bytes at the moment of a step when they are most: gradients that are there by then, and activations.

    kept: activations at their own highest moment, before most of the gradients are there.
    """

    gradients: int
    activations: int
    kept: int


@dataclass(frozen=True)
class Memory:
    """Bytes that learning takes on its device.

    networks: their weights. beside: what learns beside them. given_back: copies of weights that learn, to put back in
    the end; they are on the CPU, and count where that is the device. text: states of frozen prompts. moments: of the
    optimizer; small_moments: what they would be of one byte each, and small_working: what moving weights by those takes
    meanwhile. gradients: all of them. step: by whether activations are recomputed in the backward pass. before: what
    passes while nothing but the networks is there; between: while all is there but activations.
    """

    networks: int
    beside: int
    given_back: int
    text: int
    moments: int
    small_moments: int
    small_working: int
    gradients: int
    step: dict[bool, StepMemory]
    before: dict[str, int]
    between: dict[str, int]

    @property
    def held(self) -> int:
        """From the first step to the last."""
        return self.networks + self.beside + self.given_back + self.text + self.moments

    def total(self, checkpointing: bool) -> int:
        """At the moment of the whole run when it is most."""
        step = self.step[checkpointing]
        learning = [step.gradients + step.activations, *(self.gradients + more for more in self.between.values())]
        return max(self.held + max(learning), self.networks + max(self.before.values()))

    def with_small_moments(self) -> Self:
        """The same with moments of one byte each."""
        between = {**self.between, "moving weights": self.small_working}
        return replace(self, moments=self.small_moments, between=between)

    def fits(self, free: int, checkpointing: bool) -> bool:
        """Whether so many bytes are enough for all of it, and what libraries take beside."""
        return self.total(checkpointing) + ALLOWANCE <= free


class Tally(TorchDispatchMode):
    """Adds up the bytes of tensors that are there. Of those that are there on entry it knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.gradients = 0
        self.forget()

    def forget(self) -> None:
        """Count the highest moment from now on."""
        self.highest, self.gradients_then = self.now, self.gradients
        self.kept = self.now - self.gradients

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.held:
            return
        self.held[key] = storage.nbytes()
        self.now += self.held[key]
        weakref.finalize(storage, self._release, key)
        self.kept = max(self.kept, self.now - self.gradients)
        if self.now > self.highest:
            self.highest, self.gradients_then = self.now, self.gradients

    def _release(self, key: int) -> None:
        self.now -= self.held.pop(key)


def memory_of(model: ModelConfig, config: LearnConfig, size: int, pictures: int, device: torch.device) -> Memory:
    """What learning takes from squares of that side.

    pictures: how many are encoded. device: what it would be on; it need not be here. Takes some seconds for the largest
    model.
    """
    with without_numbers() as tally:
        fake = StableDiffusion(
            UNet(model.unet),
            Autoencoder(model.vae),
            TextEncoder(model.text),
            Tokenizer(padding=model.text.padding, length=model.text.length),
            config=replace(model, noise=replace(model.noise)),  # what a schedule has worked out stays with it
        )
        if device.type == "cuda":
            _norms_in_float32(fake)
        networks = tally.now
        own = {id(p) for network in networks_of(fake).values() for p in network.parameters()}
        before = {"encoding pictures": _above(tally, lambda: _encode(fake, pictures, size))}
        if config.prior_weight:
            before["drawing class pictures"] = _above(tally, lambda: _sample(fake, config, config.class_batch, size))
        with ready_to_learn(fake, replace(config, gradient_checkpointing=False)) as placed:
            beside = sum(p.nbytes for p in placed.parameters.values() if id(p) not in own)
            copies = tally.now - networks - beside
            classes = cast(Stream, object()) if config.prior_weight else None
            learner = Learner(fake, config, placed, cast(Stream, object()), classes)
            text = 0 if learner.frozen_context is None else learner.frozen_context.nbytes
            steps = {recomputed: _step(tally, learner, recomputed, size) for recomputed in (True, False)}
            gradients = sum(p.grad.nbytes for p in learner.parameters.values() if p.grad is not None)
            moments, between = _above(tally, lambda: _begin(learner)), dict[str, int]()
            shapes = [tuple(p.shape) for p in learner.parameters.values()]
            small = sum(small_moment_bytes(shape) for shape in shapes)
            working = 4 * WIDE_EACH * min(WIDENED_AT_ONCE, max(torch.Size(shape).numel() for shape in shapes))
            if config.random_crop or getattr(config, "zoom", False):
                between["encoding a picture"] = _above(tally, lambda: _encode(fake, 1, size))
            if config.sample_every:
                between["drawing a sample picture"] = _above(tally, lambda: _sample(fake, config, 1, size))
    put_back = copies if device.type == "cpu" else 0
    memory = Memory(networks, beside, put_back, text, moments, small, working, gradients, steps, before, between)
    return memory.with_small_moments() if config.moments == "8bit" else memory


def _norms_in_float32(model: StableDiffusion) -> None:
    """Autocast as it is on a GPU, where norms are computed and given in float32, and not as on a CPU."""

    def widened(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        return (inputs[0].float(),) if torch.is_autocast_enabled("cpu") else None

    for network in networks_of(model).values():
        for module in network.modules():
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.register_forward_pre_hook(widened)


def recomputes(model: StableDiffusion, config: LearnConfig, size: int, pictures: int, numbers: int) -> bool:
    """Whether activations are to be recomputed: as the configuration says, or where there is no room to keep them.

    config: with the rows of this process. numbers: how many learn. Where far more would fit than it can take, nothing
    is counted.
    """
    if config.gradient_checkpointing is not None:
        return config.gradient_checkpointing
    free = free_bytes(model.device)
    if far_above(model.config, config, size, numbers) <= free:
        return False
    memory = memory_of(model.config, config, size, pictures, model.device)
    return not memory.fits(free + memory.networks, False)  # which are there already


def far_above(model: ModelConfig, config: LearnConfig, size: int, numbers: int) -> int:
    """More bytes than learning takes beside the networks."""
    rows = config.batch * (2 if config.prior_weight else 1)
    side = size // model.vae.factor
    activations = FAR_ABOVE * rows * model.unet.channels * side**2
    encoder = 8 * model.vae.channels * max(PIXELS_AT_ONCE, size**2)
    return ALLOWANCE + 4 * (4 * numbers + activations + encoder)


@contextmanager
def without_numbers() -> Iterator[Tally]:
    """Tensors made within have shapes and no numbers; yields what adds up the bytes that they would take."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # brings a computer algebra along

    with FakeTensorMode(), Tally() as tally:
        yield tally


def _above(tally: Tally, call: Callable[[], Any]) -> int:
    """By how many bytes memory rises at most while that is done."""
    tally.forget()
    start = tally.now
    call()
    return tally.highest - start


def _begin(learner: Learner) -> None:
    """Have the optimizer make its moments."""
    optimizer = learner.optimizer
    if isinstance(optimizer, SmallMomentsAdamW):
        for parameter in learner.parameters.values():
            optimizer.begin(parameter)
    else:
        optimizer.step()


def _encode(model: StableDiffusion, pictures: int, size: int) -> None:
    encode_moments(model, torch.empty(min(pictures, max(1, PIXELS_AT_ONCE // size**2)), 3, size, size))


@torch.no_grad()
def _sample(model: StableDiffusion, config: LearnConfig, pictures: int, size: int) -> None:
    """One call of the U-Net, guided, and one picture decoded: as `sample_pictures` does it."""
    latents = _latents(model, 2 * pictures, size)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
        model.unet(latents, SOME_STEP, model.encode_text([""] * len(latents)))
    model.decode(latents[:1])


def _step(tally: Tally, learner: Learner, recomputed: bool, size: int) -> StepMemory:
    """The highest moment of a step's forward and backward passes; leaves the gradients."""
    config = learner.config
    learner.model.unet.gradient_checkpointing = learner.model.text_encoder.gradient_checkpointing = recomputed
    learner.optimizer.zero_grad(set_to_none=True)
    there: set[int] = set()

    def note(parameter: Tensor) -> None:
        if id(parameter) not in there and parameter.grad is not None:
            there.add(id(parameter))
            tally.gradients += parameter.grad.nbytes

    handles = [p.register_post_accumulate_grad_hook(note) for p in learner.parameters.values()]
    tally.gradients = 0
    tally.forget()
    start = tally.now
    for _ in range(min(config.accumulate, 2)):  # the second finds gradients there, and so do all after it
        _loss(learner, size).backward()
    for handle in handles:
        handle.remove()
    return StepMemory(tally.gradients_then, tally.highest - start - tally.gradients_then, tally.kept - start)


def _loss(learner: Learner, size: int) -> Tensor:
    """As `Learner.loss`, of rows that are as many and under as many prompts as may be."""
    config, maps = learner.config, list[Tensor]()
    of_subject, of_class = len(config.instance_texts), len(config.class_texts)
    texts = [row % of_subject for row in range(config.batch)]
    texts += [of_subject + row % of_class for row in range(config.batch)] if of_class else []
    noisy = _latents(learner.model, len(texts), size)
    output = learner.predicted(noisy, SOME_STEP, texts, maps if config.attention_loss else None)
    errors = squared_error(output, torch.empty_like(noisy))
    loss = dreambooth_loss(errors, config.batch, config.prior_weight)
    if maps:
        words = [learner.words[text] for text in texts[: config.batch]]
        loss = loss + attention_error(maps, words, torch.empty_like(noisy[: config.batch, :1])).mean()
    return loss


def _latents(model: StableDiffusion, rows: int, size: int) -> Tensor:
    side = size // model.config.vae.factor
    return torch.empty(rows, model.config.vae.latent_channels, side, side)
