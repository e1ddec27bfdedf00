"""train.methods: what every way of learning keeps to, whatever it learns."""

from dataclasses import replace

import pytest
import torch
from test_dreambooth import build, pictures, run, same
from tiny_model import tiny_model

from photoswap.commands import learn_flags as command
from train.concepts import open_concept
from train.config import CONFIGS, Beside, learn_config
from train.learn import CHECKPOINT_FILE
from train.methods import LEARNING_METHODS, method_of
from train.presets import PRESETS
from train.run_file import read_run
from weights import fingerprint
from weights.load import networks_of

PICTURES = {"class_pictures": 2, "class_steps": 2, "class_guidance": 1.0}
FEW = {"size": 64, "steps": 4, "learning_rate": 1e-2, **PICTURES}
OF_WORD = {"size": 64, "steps": 4, "learning_rate": 1e-2}
DOG = Beside("<new2>", "dog", "pll")
CASES = {
    "dreambooth": learn_config("dreambooth", "sd21", "cat", **FEW),
    "lora": learn_config("lora", "sd21", "cat", **FEW),
    "lora of everything": learn_config(
        "lora", "sd21", "cat", **FEW, prior_weight=0.5, layers="linear", train_text_encoder=True, rank=3, alpha=1.5
    ),
    "textual-inversion": learn_config("textual-inversion", "sd21", "cat", **OF_WORD, tokens_per_word=2),
    "custom-diffusion": learn_config("custom-diffusion", "sd21", "cat", **FEW),
    "custom-diffusion of whole layers": learn_config("custom-diffusion", "sd21", "cat", **FEW, whole_attention=True),
    "custom-diffusion of two": learn_config("custom-diffusion", "sd21", "cat", **FEW, zoom=False, also=(DOG,)),
}
EVERY = pytest.mark.parametrize("config", CASES.values(), ids=CASES)


def taught(model, config, out=None, **more):
    """As `run`, with references for every subject of the configuration."""
    several = {token: pictures() for token in config.tokens}
    return run(model, config, out, **({"references": several} if len(several) > 1 else {}), **more)


def everything(model) -> dict[str, torch.Tensor]:
    """Every tensor of a model, by name: the live ones."""
    return {f"{n}.{name}": t for n, net in networks_of(model).items() for name, t in net.state_dict().items()}


def copies(tensors) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@EVERY
def test_resuming_equals_never_having_stopped_in_every_tensor(tmp_path, config):
    config = replace(config, checkpoint_every=2)
    whole, losses = taught(build(), config, tmp_path / "whole", keep_checkpoint=True)
    taught(build(), replace(config, steps=2), tmp_path / "parts", keep_checkpoint=True)
    resumed, rest = taught(build(), config, tmp_path / "parts", resume=True, keep_checkpoint=True)
    assert rest == losses[2:] and same(whole, resumed)
    (one, about), (other, again) = (read_run(tmp_path / name / CHECKPOINT_FILE) for name in ("whole", "parts"))
    assert about == again and one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    file = method_of(config).file
    assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


@EVERY
def test_nothing_frozen_moves_while_learning_and_nothing_at_all_in_the_end(config):
    model = build()
    live, before = everything(model), copies(everything(model))
    names, told, tokenizer = set(method_of(config).shapes(model, config)), fingerprint(model), model.tokenizer
    calls = []

    def watch(*_):
        moved = {name for name, tensor in live.items() if not torch.equal(tensor, before[name])}
        assert moved == names & set(live)
        calls.append(moved)

    concept, _ = taught(model, config, on_step=watch)
    assert len(calls) == config.steps and concept.tensors
    assert {name: tensor.data_ptr() for name, tensor in live.items()} == {
        name: tensor.data_ptr() for name, tensor in everything(model).items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(model).items())
    assert fingerprint(model) == told and model.tokenizer is tokenizer
    assert not any(module._forward_hooks for net in networks_of(model).values() for module in net.modules())
    assert all(p.requires_grad and p.grad is None for net in networks_of(model).values() for p in net.parameters())


@EVERY
def test_everything_that_is_to_learn_moves(config):
    concept, _ = taught(build(), config)
    fresh, _ = taught(build(), replace(config, learning_rate=1e-30, steps=1, weight_decay=0.0))
    still = [n for n, tensor in concept.tensors.items() if torch.equal(tensor, fresh.tensors[n]) and "alpha" not in n]
    assert not [name for name in still if "attn1" not in name]  # at 64 px its map has one place, and nothing to choose


@EVERY
def test_the_file_that_is_written_opens_as_the_concept_it_was(tmp_path, config):
    concept, _ = taught(build(), config, tmp_path)
    found = open_concept(tmp_path / method_of(config).file)
    assert same(concept, found) and found.about == concept.about
    assert concept.settings["method"] == config.method


def test_the_model_of_another_method_is_not_gone_on_with(tmp_path):
    taught(build(), replace(CASES["lora"], checkpoint_every=2), tmp_path, keep_checkpoint=True)
    with pytest.raises(ValueError, match="method was 'lora' and is 'dreambooth'"):
        taught(build(), CASES["dreambooth"], tmp_path, resume=True)


def test_the_command_knows_the_methods_without_torch():
    """It answers before torch is there, so it has copies of these."""
    assert {name: method.file for name, method in LEARNING_METHODS.items()} == command.CONCEPTS
    assert CONFIGS.keys() == PRESETS.keys() == LEARNING_METHODS.keys()
    assert {name for presets in PRESETS.values() for name in presets} == set(command.PRESET_NAMES)
    for flag, methods in command.OWN.items():
        assert {name for name, config in CONFIGS.items() if flag in config.__dataclass_fields__} == set(methods)


def test_every_preset_can_be_filled():
    for method, presets in PRESETS.items():
        for name in presets:
            assert learn_config(method, name, "cat").settings()["method"] == method


@pytest.mark.parametrize(
    ("method", "preset", "changes", "complaint"),
    [
        (
            "hypernetwork",
            "sd21",
            {},
            "no method 'hypernetwork' to learn by; there are dreambooth, lora, ",
        ),
        ("lora", "sdxl", {}, "no preset for 'sdxl' in lora; there are sd21"),
        ("dreambooth", "sd21", {"rank": 4}, "dreambooth has no setting 'rank'"),
        ("lora", "sd21", {"rank": 0}, "rank is 0; want a whole number from 1"),
        ("lora", "sd21", {"alpha": 0.0}, "alpha is 0.0; want a number above 0"),
        ("lora", "sd21", {"layers": "some"}, "layers is 'some'; want one of attention, linear"),
    ],
)
def test_what_does_not_belong_together_is_one_sentence(method, preset, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        learn_config(method, preset, "cat", **changes)


def test_rates_are_scaled_by_the_pictures_of_a_step():
    config = learn_config("lora", "sd21", "cat", batch=2, accumulate=3)
    assert config.rate() == 1e-4 and config.rate(1e-5) == 1e-5
    scaled = replace(config, scale_learning_rate=True)
    assert scaled.rate() == pytest.approx(6e-4) and scaled.rate(1e-5) == pytest.approx(6e-5)


def test_one_seed_is_one_result_and_another_another():
    model = tiny_model()
    a, b, c = (run(model, replace(CASES["lora"], steps=1, seed=seed))[0] for seed in (0, 0, 1))
    assert same(a, b) and not same(a, c)
    assert len(pictures()) == 2
