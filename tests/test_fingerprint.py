"""weights.fingerprint: one name for one model, wherever and however it is loaded, and another for any other."""

import copy
import json
import sys
from dataclasses import fields, replace

import pytest
import torch
from golden_model import LAYOUTS, golden_config
from safetensors.torch import load_file, save_file
from tiny import TEXT
from tiny_model import tiny_config, tiny_model, write_tiny_model
from torch import nn

from models.config import ModelConfig
from models.identity import Mark
from weights import fingerprint, identify, mismatch, with_concepts
from weights.checksum import PIECE, _checksum, digest_of, scan
from weights.fingerprint_v1 import fingerprint_v1
from weights.load import load, networks_of

module = sys.modules[fingerprint.__module__]  # the package gives its name to the function
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def name(model):
    return fingerprint(model)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture
def never_hashed(monkeypatch):
    """No weight may be looked at from now on."""

    def refuse(*_):
        raise AssertionError("the weights were hashed again")

    monkeypatch.setattr(module, "digest_of", refuse)


def test_it_is_short_and_repeats(name):
    assert fingerprint(tiny_model()) == name
    version, _, digits = name.partition("-")
    assert version == "2" and len(digits) == 16 and int(digits, 16) >= 0


def test_a_checkpoint_has_one_in_every_dtype_and_on_every_device(name, tiny_file, device):
    """It is that of the numbers in the file, float32 here, which half precision rounds."""
    loaded = [load(tiny_file, where, dtype) for where in ("cpu", device) for dtype in (*DTYPES, None)]
    assert {fingerprint(model) for model in loaded} == {name}


def test_it_is_the_same_from_either_layout_and_either_container(tmp_path, name, tiny_file, device):
    assert len({fingerprint(load(path, device, config=golden_config())) for path in LAYOUTS.values()}) == 1
    torch.save({"state_dict": load_file(tiny_file)}, tmp_path / "tiny.ckpt")
    assert fingerprint(load(tmp_path / "tiny.ckpt", config=tiny_config())) == name


def test_the_dtype_of_the_file_does_not_count_its_values_do(tmp_path, name, tiny_file):
    half = {key: tensor.half() for key, tensor in load_file(tiny_file).items()}
    save_file(half, tmp_path / "half.safetensors")
    save_file({key: tensor.float() for key, tensor in half.items()}, tmp_path / "wide.safetensors")
    names = {fingerprint(load(tmp_path / f"{kind}.safetensors", config=tiny_config())) for kind in ("half", "wide")}
    assert len(names) == 1 and name not in names


# What a loaded model carries, and when it is void


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loaded_model_is_not_hashed_again(never_hashed, name, tiny_file, dtype, device):
    model = load(tiny_file, dtype=dtype)
    for network in networks_of(model).values():
        network.to(device).requires_grad_(False).train()
    model.unet.to(memory_format=torch.channels_last)
    assert fingerprint(model) == fingerprint(replace(model)) == name
    assert fingerprint(model.with_schedule(replace(model.schedule, spacing="trailing"))) != name


def test_a_model_moved_to_another_dtype_is_the_same_checkpoint(never_hashed, name, tiny_file):
    model = load(tiny_file)
    for network in networks_of(model).values():
        network.to(torch.bfloat16)
    assert fingerprint(model) == name


def in_place(network):
    with torch.no_grad():
        network.get_parameter("conv_in.weight")[0, 0, 0, 0] += 1e-3


def by_another_tensor(network):
    network.conv_in.weight = nn.Parameter(network.conv_in.weight * 2)


def by_training(network, **how):
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(network.parameters(), lr=1e-4, **how).step()


@pytest.mark.parametrize(
    "change",
    [
        in_place,
        by_another_tensor,
        lambda network: by_training(network, fused=True),  # which counts no version up
        lambda network: by_training(network, foreach=True),
        lambda network: network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()}),
        lambda network: network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()}, assign=True),
    ],
    ids=["in place", "another tensor", "fused optimizer", "optimizer", "load_state_dict", "assign"],
)
def test_no_changed_network_keeps_a_stale_one(name, tiny_file, change):
    model = load(tiny_file)
    stored = copy.deepcopy(model.unet.state_dict())
    change(model.unet)
    assert fingerprint(model) not in (name, fingerprint(tiny_model(seed=1)))
    assert fingerprint(model) == fingerprint(replace(model, identity=None))  # that of what it holds now
    model.unet.load_state_dict(stored)
    assert fingerprint(model) == name  # put back, as training does


def test_only_the_changed_network_is_hashed_again(monkeypatch, tiny_file):
    model, hashed = load(tiny_file), []
    monkeypatch.setattr(module, "digest_of", lambda state: hashed.append(state.keys()) or digest_of(state))
    in_place(model.unet)
    fingerprint(model)
    assert hashed == [model.unet.state_dict().keys()]


def test_another_network_in_its_place_is_seen(name, tiny_file):
    other = replace(load(tiny_file), vae=tiny_model(seed=1).vae)
    assert fingerprint(other) == fingerprint(replace(other, identity=None)) != name


def test_under_inference_mode_nothing_is_counted_and_numbers_tell(name, tiny_file):
    with torch.inference_mode():
        model = load(tiny_file)
        assert fingerprint(model) == name
        model.unet.conv_in.weight += 1
        assert fingerprint(model) != name


def test_a_mark_keeps_no_tensor_alive(tiny_file):
    model = load(tiny_file)
    mark, unet = Mark.of(model.unet), model.unet
    assert mark.holds(unet)
    model.unet, unet = None, None
    assert all(kept() is None for kept in mark.tensors)


# Concepts


def test_a_model_with_a_concept_is_known_by_both_in_any_dtype(never_hashed, tiny_file):
    names = set()
    for dtype in DTYPES:
        model = load(tiny_file, dtype=dtype)
        base = identify(model)
        in_place(model.unet)
        names.add(fingerprint(with_concepts(model, base, "a concept")))
    assert len(names) == 1


def test_concepts_count_each_in_its_order_and_on_their_base(tiny_file):
    model = load(tiny_file)
    base, alone = identify(model), fingerprint(model)
    one = with_concepts(model, base, "a")
    chains = [with_concepts(model, base, *digests) for digests in (("a", "b"), ("b", "a"), ("b",))]
    assert len({alone, *map(fingerprint, [one, *chains])}) == 5
    assert fingerprint(with_concepts(one, identify(one), "b")) == fingerprint(chains[0])
    other = model.with_schedule(replace(model.schedule, prediction="eps"))
    assert fingerprint(with_concepts(other, identify(other), "a")) != fingerprint(one)


def test_a_concept_on_a_model_that_was_changed_since_is_forgotten(tiny_file):
    """And with it what the base knew of the network that it went on, which is not the one that was changed."""
    model = load(tiny_file)
    base = identify(model)
    in_place(model.unet)
    model = with_concepts(model, base, "a concept")
    with torch.no_grad():
        model.vae.quant_conv.bias += 1
    assert identify(model).concepts == ()
    assert fingerprint(model) == fingerprint(replace(model, identity=None))


def test_the_digest_of_a_concept_is_that_of_its_values():
    tensors = {"unet.a": torch.randn(3, 5), "unet.b": torch.randn(4)}
    assert digest_of(tensors) == digest_of(dict(reversed(tensors.items())))
    half = {name: tensor.half() for name, tensor in tensors.items()}
    assert digest_of(half) == digest_of({name: tensor.float() for name, tensor in half.items()})
    a, b = tensors.values()
    others = [
        half,
        {"unet.a": a},
        {"text.a": a, "unet.b": b},
        {"unet.a": a, "unet.b": -b},
        {"unet.a": a.T, "unet.b": b},
    ]
    assert len({digest_of(other) for other in [tensors, *others]}) == 6


# The first version


V1 = {"tiny": "b51e7fdf8e0446cf", "golden": "ec16991014b76611"}  # as it wrote them


def test_the_first_version_is_still_reckoned():
    assert fingerprint_v1(tiny_model()) == V1["tiny"]
    loaded = [load(LAYOUTS["ldm"], dtype=dtype, config=golden_config()) for dtype in (torch.float16, torch.float32)]
    assert {fingerprint_v1(model) for model in loaded} == {V1["golden"]}
    trailing = replace(tiny_config().noise, spacing="trailing")
    assert fingerprint_v1(tiny_model().with_schedule(trailing)) is None  # there was none


def test_what_the_first_version_recorded_is_known_again():
    model = load(LAYOUTS["ldm"], config=golden_config())
    assert mismatch(model, V1["golden"]) is None and mismatch(model, fingerprint(model)) is None
    assert mismatch(model, V1["tiny"]) == f"this is golden ({fingerprint(model)})"


def test_where_the_first_version_cannot_be_proven_it_says_what_to_do():
    told = mismatch(load(LAYOUTS["ldm"], dtype=torch.bfloat16, config=golden_config()), V1["golden"])
    assert told.endswith(
        "in bfloat16; what an earlier version recorded can be told only in float32 or float16: load the model so, or "
        "make the file again"
    )


def test_the_first_version_is_reckoned_only_when_an_old_file_comes(monkeypatch, model):
    monkeypatch.setattr(module, "fingerprint_v1", lambda _: pytest.fail("reckoned"))
    assert mismatch(model, fingerprint(tiny_model(seed=1))).startswith("this is tiny (2-")


# What counts


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


def splitmix64(place):
    """Number `place` of the generator seeded with 0, in integers of any length."""
    z = place * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@pytest.mark.parametrize("size", [1, 2, 3, 1001])
def test_a_checksum_is_exact_integer_arithmetic(size, device):
    assert splitmix64(1) == 0xE220A8397B1DCDAF  # as published
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(0))
    words = tensor.numpy().view("<i4").tolist()
    wanted = sum(word * (splitmix64(place + 1) | 1) for place, word in enumerate(words))
    assert (int(_checksum(tensor.to(device))) - wanted) % 2**64 == 0


def test_no_pattern_of_signs_cancels():
    """Odd factors 1, 3, 5, 7 would: 1 - 3 - 5 + 7 = 0."""
    tensor = torch.randn(4, generator=torch.Generator().manual_seed(0)).abs()
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * 4)
    assert len({int(_checksum(tensor * sign)) for sign in signs}) == 16


def test_a_tensor_is_summed_piece_by_piece():
    """The same word at the start of two pieces has the same sum in each: their order is what tells."""
    assert TEXT.vocabulary * TEXT.width > PIECE
    one, other = (with_table(lambda table, i=i: table.zero_().view(-1)[i].fill_(1.0)) for i in (0, PIECE))
    assert fingerprint(one) != fingerprint(other)


def test_one_pass_tells_what_is_not_finite(device):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tensor = torch.zeros(PIECE + 3, dtype=dtype, device=device)
        assert scan(tensor).is_finite(dtype)
        for value in (float("nan"), float("inf"), -float("inf")):
            tensor[-2] = value
            assert not scan(tensor).is_finite(dtype)
    large = torch.tensor([1.0, -65520.0, 2.0], device=device)  # the first that float16 rounds to infinity
    assert scan(large).is_finite(torch.bfloat16) and not scan(large).is_finite(torch.float16)
    assert scan(torch.zeros(0)).is_finite(torch.float16)


OTHER = {
    "unet": {
        "channels": 32,
        "multipliers": (1, 1, 2, 4),
        "res_blocks": 2,
        "attention_levels": (0, 1),
        "head_channels": 4,
        "heads": 2,
        "groups": 2,
        "depth": 2,
        "in_channels": 9,
    },
    "vae": {"channels": 16, "multipliers": (1, 2, 2, 2), "res_blocks": 2, "groups": 2, "scale_factor": 0.2},
    "text": {
        "vocabulary": 500,
        "heads": 2,
        "layers": 1,
        "length": 76,
        "mlp_ratio": 2,
        "activation": "quick_gelu",
        "padding": "eot",
    },
    "noise": {
        "beta_start": 0.001,
        "beta_end": 0.02,
        "train_steps": 999,
        "prediction": "eps",
        "offset": 0,
        "beta_schedule": "linear",
        "spacing": "trailing",
        "rescale_zero_snr": True,
        "set_alpha_to_one": True,
    },
}
TOGETHER = {"out_channels", "latent_channels", "context_channels", "width"}  # two configurations must agree on these


def test_every_number_of_a_configuration_counts(model, name):
    """What a network predicts is nowhere in its weights: SD 2.1 and a v-finetune of 2.1-base may share every shape."""
    names = [name]
    for part, others in OTHER.items():
        for field, value in others.items():
            kept = {"head_channels": None} if (part, field) == ("unet", "heads") else {}
            other = replace(getattr(model.config, part), **{field: value}, **kept)
            names.append(fingerprint(replace(model, config=replace(model.config, **{part: other}))))
    assert len(set(names)) == len(names)


def test_every_field_of_a_configuration_is_counted_or_said_not_to():
    """A new field belongs into COUNTED_UNLESS, with the value that means what was so before."""
    for part in ("unet", "vae", "text", "noise"):
        known = {*module.COUNTED[part], *module.COUNTED_UNLESS.get(part, {}), *module.NOT_COUNTED.get(part, ())}
        assert known == {field.name for field in fields(getattr(tiny_config(), part))}
        assert {*module.COUNTED[part]} == {*OTHER[part]} | (TOGETHER & {*module.COUNTED[part]})


def test_a_new_field_at_its_default_changes_no_fingerprint(monkeypatch, model, name):
    monkeypatch.setitem(module.COUNTED, "text", tuple(f for f in module.COUNTED["text"] if f != "padding"))
    before = fingerprint(model)
    monkeypatch.setitem(module.COUNTED_UNLESS, "text", {"padding": "zero"})
    assert fingerprint(model) == before
    other = replace(model.config, text=replace(model.config.text, padding="eot"))
    assert fingerprint(replace(model, config=other)) != before


def test_version_two_stays_what_it_is():
    """Renaming a field, or writing a number otherwise, orphans every file: that takes a version 3."""
    assert fingerprint(load(LAYOUTS["ldm"], config=golden_config())) == "2-4b68209689ea4413"
    whole = replace(ModelConfig(), vae=replace(ModelConfig().vae, scale_factor=1))
    assert json.dumps(module.numbers(whole)["vae.scale_factor"]) == "1.0"


def test_the_schedule_having_been_used_does_not_count(model, name):
    assert model.schedule.alpha_bar.shape == (1000,)
    assert fingerprint(model) == name
