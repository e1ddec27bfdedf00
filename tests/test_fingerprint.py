"""weights.fingerprint: one name for one model, wherever and however it is loaded, and another for any other."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from golden_model import LAYOUTS, golden_config
from tiny import TEXT
from tiny_model import tiny_config, tiny_model
from torch import nn

from samplers import Schedule
from weights import fingerprint
from weights.fingerprint import PIECE, _checksum
from weights.load import load, networks_of


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def name(model):
    return fingerprint(model)


def test_it_is_short_and_repeats(name):
    assert fingerprint(tiny_model()) == name
    assert len(name) == 16 and int(name, 16) >= 0


def test_it_is_the_same_on_every_device_and_in_either_precision(device):
    """A float16 file, as most are: float32 holds its numbers exactly."""
    names = {
        fingerprint(load(LAYOUTS["ldm"], where, dtype, golden_config()))
        for where in ("cpu", device)
        for dtype in (torch.float16, torch.float32, torch.float64)
    }
    assert len(names) == 1


def test_a_float32_file_has_one_fingerprint_too(name, device):
    """Its numbers count as float16, as rounded here as there."""
    half = tiny_model()
    for network in networks_of(half).values():
        network.to(device, torch.float16)
    assert fingerprint(half) == name


def test_neither_memory_format_nor_name_nor_mode_counts(name):
    other = tiny_model()
    other.unet.to(memory_format=torch.channels_last).train().requires_grad_(False)
    assert fingerprint(replace(other, config=replace(other.config, name="mine"))) == name


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_every_network_counts_down_to_the_last_number_of_a_tensor(part):
    """Which may have no partner to be paired with. Every eighth tensor, to be quick."""
    model = tiny_model()
    others = {other: nn.Identity() for other in {"unet", "vae", "text_encoder"} - {part}}
    alone, tensors = replace(model, **others), list(getattr(model, part).state_dict().values())[::8]
    before = fingerprint(alone)
    names = {before}
    for tensor in tensors:
        last = tensor.view(-1)[-1:]
        kept = last.clone()
        last += 1e-2
        names.add(fingerprint(alone))
        last.copy_(kept)
    assert len(names) == len(tensors) + 1 and fingerprint(alone) == before


def with_table(change):
    """The tiny model after a change, in place, to the table of its vocabulary."""
    model = tiny_model()
    with torch.no_grad():
        change(model.text_encoder.token_embedding.weight)
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table[320].copy_(table[321]),
        lambda table: table.copy_(table.roll(1, 0)),
        lambda table: table.copy_(table.flip(0)),
        lambda table: table.copy_(table.flip(1)),
        lambda table: table[320, 3].mul_(-1),
        lambda table: (table[0].add_(1e-3), table[1].sub_(1e-3)),
    ],
    ids=["row copied", "rows moved on", "rows turned round", "columns turned round", "one sign", "same sum"],
)
def test_the_place_of_every_weight_counts(name, change):
    assert fingerprint(with_table(change)) != name


def test_signs_that_change_places_show():
    """The top bits of a word are what a sum modulo a power of two could lose."""

    def minus(row):
        return with_table(lambda table: table.fill_(1.0)[row::64, 1::2].neg_())

    assert fingerprint(minus(0)) != fingerprint(minus(32))


@pytest.mark.parametrize("size", [1, 2, 3, 1001])
def test_a_checksum_is_exact_integer_arithmetic(size, device):
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(0))
    words = np.append(tensor.half().numpy(), np.zeros(size % 2, np.float16)).view("<i4").tolist()
    wanted = sum(word * (2 * place + 1) for place, word in enumerate(words))
    assert (_checksum(tensor.to(device)) - wanted) % 2**64 == 0


def test_a_tensor_is_summed_piece_by_piece():
    """The same word at the start of two pieces has the same sum in each: their order is what tells."""
    assert TEXT.vocabulary * TEXT.width > PIECE
    one, other = (with_table(lambda table, i=i: table.zero_().view(-1)[i].fill_(1.0)) for i in (0, PIECE))
    assert fingerprint(one) != fingerprint(other)


def test_every_number_of_the_networks_counts(model, name):
    config = tiny_config()
    variants = [
        replace(config, vae=replace(config.vae, scale_factor=0.2)),
        replace(config, text=replace(config.text, padding="eot")),
        replace(config, text=replace(config.text, activation="quick_gelu")),
        replace(config, unet=replace(config.unet, head_channels=4)),
    ]
    names = {fingerprint(replace(model, config=variant)) for variant in variants}
    assert len(names | {name}) == len(variants) + 1


OTHER_NOISE = {
    "beta_start": 0.001,
    "beta_end": 0.02,
    "train_steps": 999,
    "prediction": "eps",
    "offset": 0,
    "beta_schedule": "linear",
    "spacing": "trailing",
    "rescale_zero_snr": True,
    "set_alpha_to_one": True,
}


@pytest.mark.parametrize("field", [field.name for field in fields(Schedule)])
def test_every_number_of_the_noise_counts(model, name, field):
    """What a network predicts is nowhere in its weights: SD 2.1 and a v-finetune of 2.1-base may share every shape."""
    other = {field: OTHER_NOISE[field]}
    assert fingerprint(model.with_schedule(replace(model.schedule, **other))) != name


def test_the_schedule_having_been_used_does_not_count(model, name):
    assert model.schedule.alpha_bar.shape == (1000,)
    assert fingerprint(model) == name
