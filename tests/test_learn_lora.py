"""train.methods.lora: nothing at first, the paper's sum while it learns, and the same sum merged."""

from dataclasses import replace

import pytest
import torch
from test_dreambooth import build, run
from test_learning_methods import CASES, FEW

from models.config import MINIATURE, SD15, SD21
from train.concepts import Concept, apply_concept
from train.config import learn_config
from train.methods import LoRA
from train.methods.lora import adapted_weights
from train.ready import ready_to_learn
from weights.load import meta_model

WHOLE = CASES["lora of everything"]


def inputs(model):
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return latents.to(model.dtype), torch.tensor([20, 900])


def outputs(model, prompts=("a photo of a sks cat", "a dog")):
    latents, t = inputs(model)
    return model.unet(latents, t, model.encode_text(prompts))


def of_anyone(changes) -> Concept:
    """A concept of these changes that names no base."""
    return Concept("", "tiny", "sks", "cat", "", "", {}, changes)


def shake(placed) -> None:
    """Every factor drawn, so that all of them say something."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in placed.parameters.values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


@torch.no_grad()
@pytest.mark.parametrize("config", [CASES["lora"], WHOLE], ids=["attention", "linear"])
def test_at_first_it_changes_nothing(config):
    model = build()
    before = outputs(model)
    with ready_to_learn(model, config):
        assert torch.equal(outputs(model), before)
    assert torch.equal(outputs(model), before)


@torch.no_grad()
def test_merged_is_what_was_live():
    """In float32 within 1e-6 of the size of the output; in float64, where rounding vanishes, within 1e-14."""
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        model = build(dtype=dtype)
        plain = outputs(model)
        with ready_to_learn(model, WHOLE) as placed:
            shake(placed)
            live, changes = outputs(model), placed.changes()
        merged = outputs(apply_concept(build(dtype=dtype), of_anyone(changes)))
        assert (live - merged).norm() <= tolerance * live.norm()
        assert (live - plain).norm() > 0.05 * plain.norm()


class Slow(torch.nn.Module):
    """A linear layer with a low-rank change, every number by itself."""

    def __init__(self, layer, up, down, scale) -> None:
        super().__init__()
        self.layer, self.up, self.down, self.scale = layer, up, down, scale

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        rows = []
        for row in flat:
            row_out = self.layer.weight @ row
            if self.layer.bias is not None:
                row_out = row_out + self.layer.bias
            for r in range(len(self.down)):
                row_out = row_out + self.scale * torch.dot(self.down[r], row) * self.up[:, r]
            rows.append(row_out)
        return torch.stack(rows).reshape(*x.shape[:-1], -1)


@torch.no_grad()
def test_a_layer_is_the_papers_sum():
    model = build(dtype=torch.float64)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer = model.text_encoder.layers[0].attn.to_q
    with ready_to_learn(model, WHOLE) as placed:
        shake(placed)
        name = "text.layers.0.attn.to_q.weight"
        up, down = (placed.parameters[f"{name}/{side}"] for side in ("up", "down"))
        live = layer(x)
    torch.testing.assert_close(live, Slow(layer, up, down, 1.5 / 3)(x), rtol=1e-12, atol=1e-12)  # float64


def test_its_gradients_are_the_papers():
    """Of both factors, against those of the product merged into the weight."""
    model = build(dtype=torch.float64)
    with ready_to_learn(model, WHOLE) as placed:
        shake(placed)
        outputs(model).square().sum().backward()
        live = {name: p.grad.clone() for name, p in placed.parameters.items()}
        changes = placed.changes()
    name = "unet.mid.transformers.0.blocks.0.ff.proj_out.weight"
    up, down = (m.clone().requires_grad_() for m in (changes[name].up, changes[name].down))
    twin = apply_concept(build(dtype=torch.float64), of_anyone(changes))
    layer = twin.unet.get_submodule(name.removeprefix("unet.").removesuffix(".weight"))
    base = build(dtype=torch.float64).unet.get_parameter(name.removeprefix("unet.")).detach()
    bias = layer.bias.detach()
    layer.forward = lambda x: x @ (base + 0.5 * up @ down).T + bias
    outputs(twin).square().sum().backward()
    for side, merged in (("up", up), ("down", down)):
        torch.testing.assert_close(live[f"{name}/{side}"], merged.grad, rtol=1e-9, atol=1e-9)  # float64


def test_published_models_have_the_layers_that_other_tools_adapt():
    """diffusers' script: 4 projections of 32 attention layers. kohya's: 192 modules of the U-Net, 6 of each of 23."""
    for config, texts in ((SD21, 23), (SD15, 12)):
        model = meta_model(config)
        attention, linear = (learn_config("lora", "sd21", "cat", layers=layers) for layers in ("attention", "linear"))
        assert len(adapted_weights(model, attention)) == 128
        assert len(adapted_weights(model, linear)) == 192
        both = [adapted_weights(model, replace(c, train_text_encoder=True)) for c in (attention, linear)]
        assert [len(found) for found in both] == [128 + 4 * texts, 192 + 6 * texts]
        shapes = LoRA().shapes(model, attention)
        numbers = sum(a * b for a, b in shapes.values())
        assert numbers == {23: 829_952, 12: 797_184}[texts]  # rank 4: 3.3 MB in float32
    assert len(adapted_weights(meta_model(MINIATURE), linear)) == 192


def test_a_rank_beyond_a_layers_own_is_refused():
    with pytest.raises(ValueError, match=r"rank is 100, and unet\S+ is \d+ x \d+: a change of full rank"):
        run(build(), learn_config("lora", "sd21", "cat", **FEW, rank=100))
