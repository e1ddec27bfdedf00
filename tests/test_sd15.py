"""Stable Diffusion 1.5: eight heads, a 768-wide context, convolutions around the transformers, quick GELU, all layers.

What is shown here: the keys, shapes and parameter counts of the published file; and that a checkpoint with those very
keys, at tiny widths and with random weights, is loaded into networks that compute what original_sd15.py computes from
the keys alone in slow float64.

What is not: no outputs of the official code on SD 1.5 weights were at hand, as they were for SD 2.1's structure
(test_unet.py, test_text_encoder.py, test_vae.py). Numbers that no key or shape shows would go unnoticed here if they
were wrong on both sides. The epsilons of the norms and the order of sines and cosines are those of SD 2.1's networks,
which do agree with the official code. The count of heads (8 in the U-Net, 12 in the text encoder), quick GELU, padding
by the end-of-text token and the context being the last layer's rest on the published configuration alone.
"""

import math
from copy import deepcopy

import original_sd15
import pytest
import torch
from safetensors.torch import save_file
from test_names import shapes
from tiny import distance, normal

from models.clip import MLP
from models.config import SD15, ModelConfig, TextConfig, UNetConfig, VAEConfig
from models.text_encoder import TextEncoder
from models.unet import UNet
from samplers import Schedule
from weights.load import load, meta_model, to_ldm
from weights.names import not_needed

GROUPS = 8
TINY = ModelConfig(
    name="tiny-sd15",
    unet=UNetConfig(
        channels=16, head_channels=None, heads=8, context_channels=24, groups=GROUPS, linear_projection=False
    ),
    vae=VAEConfig(channels=8, groups=GROUPS),
    text=TextConfig(
        width=24, heads=12, layers=12, stored_layers=12, length=12, mlp_ratio=2, activation="quick_gelu", padding="eot"
    ),
    noise=Schedule(prediction="eps"),
    native_size=64,
)
ATTENTION = ("to_q", "to_k", "to_v", "to_out")


def published() -> dict[str, list[int]]:
    """The published keys and shapes that a network of ours needs."""
    return {key: shape for key, shape in shapes("sd15_ldm").items() if not not_needed(key, SD15, "ldm")}


@pytest.fixture(scope="module")
def state():
    """A random checkpoint with the published keys at tiny widths, no parameter left at zero or one."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for key, tensor in to_ldm(meta_model(TINY)).items():
        norm_weight = tensor.ndim == 1 and key.endswith(".weight")
        fan_in = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else 25
        drawn[key] = norm_weight + torch.randn(tensor.shape, generator=generator) * fan_in**-0.5
    return drawn


@pytest.fixture(scope="module")
def model(state, tmp_path_factory, device):
    """Our networks from that checkpoint, through the loader."""
    path = tmp_path_factory.mktemp("sd15") / "tiny.safetensors"
    save_file(state, path)
    return load(path, device, config=TINY)


@pytest.fixture(scope="module")
def inputs(device):
    return normal(2, 4, 8, 8, device=device), [7, 981], normal(2, 5, 24, device=device, seed=2)


# The published file


def test_the_tiny_checkpoint_has_the_published_keys(state):
    """And tensors of as many axes: four around the transformers, two within them."""
    assert {key: len(shape) for key, shape in published().items()} == {key: t.ndim for key, t in state.items()}


def test_parameter_counts_are_those_of_the_published_file():
    counts = {"model.diffusion_model.": 0, "first_stage_model.": 0, "cond_stage_model.": 0}
    for key, shape in published().items():
        counts[next(prefix for prefix in counts if key.startswith(prefix))] += math.prod(shape)
    built = meta_model(SD15)
    networks = (built.unet, built.vae, built.text_encoder)
    assert [sum(p.numel() for p in net.parameters()) for net in networks] == list(counts.values())
    assert list(counts.values()) == [859_520_964, 83_653_863, 123_060_480]


def test_every_cross_attention_reads_a_context_of_768():
    cross = ("attn2.to_k.weight", "attn2.to_v.weight")
    widths = [shape[1] for key, shape in published().items() if key.endswith(cross)]
    assert widths == [768] * 32 and SD15.unet.context_channels == SD15.text.width == 768


def test_the_transformers_enter_and_leave_through_convolutions():
    ends = (".1.proj_in.weight", ".1.proj_out.weight")
    kernels = [shape for key, shape in published().items() if key.endswith(ends)]
    assert len(kernels) == 32 and all(shape == [shape[0], shape[0], 1, 1] for shape in kernels)


def test_all_twelve_text_layers_are_read():
    prefix = f"{original_sd15.TEXT}encoder.layers"
    assert len(original_sd15.numbered(published(), prefix)) == SD15.text.layers == SD15.text.stored_layers == 12


def test_it_predicts_the_noise_of_pictures_of_512():
    assert SD15.noise.prediction == "eps" and SD15.native_size == 512


# Heads


def test_there_are_eight_heads_at_every_width():
    with torch.device("meta"):
        unet = UNet(SD15.unet)
    layers = [m for m in unet.modules() if all(hasattr(m, name) for name in ATTENTION)]
    assert len(layers) == len(unet.sites) == 32 and {m.heads for m in layers} == {8}
    assert {m.to_q.out_features // m.heads for m in layers} == {40, 80, 160}


def test_the_text_encoder_has_twelve_heads_of_64():
    with torch.device("meta"):
        encoder = TextEncoder(SD15.text)
    assert {(layer.attn.heads, layer.attn.to_q.out_features) for layer in encoder.layers} == {(12, 12 * 64)}


# The whole networks


@pytest.fixture(scope="module")
def expected(state, inputs):
    """The slow U-Net's output."""
    return original_sd15.unet(state, *inputs, groups=GROUPS)


@torch.no_grad()
def test_the_unet_computes_what_its_file_says(model, inputs, expected):
    latents, t, context = inputs
    out = model.unet(latents, torch.tensor(t, device=latents.device), context)
    assert distance(out, expected) < 1e-5  # float32 through 25 blocks


@torch.no_grad()
def test_in_float64_the_unet_agrees_to_twelve_digits(model, inputs, expected):
    """The difference was rounding, then, and nothing else."""
    latents, t, context = inputs
    unet = deepcopy(model.unet).double()
    out = unet(latents.double(), torch.tensor(t, device=latents.device), context.double())
    assert distance(out, expected) < 1e-12


def test_another_count_of_heads_would_be_noticed(state, inputs, expected):
    latents, t, context = inputs
    four = original_sd15.unet(state, latents[:1], t[:1], context[:1], groups=GROUPS, heads=4)
    assert distance(four, expected[:1]) > 1e-3


@torch.no_grad()
def test_projections_are_the_published_convolutions(state, model, device):
    """Those of the first transformer, by torch's own convolution."""
    ours = model.unet.down[0].transformers[0]
    picture = normal(2, 16, 8, 8, device=device)
    for name in ("proj_in", "proj_out"):
        weight, bias = (state[f"{original_sd15.UNET}input_blocks.1.1.{name}.{kind}"] for kind in ("weight", "bias"))
        convolved = torch.conv2d(picture, weight.to(device), bias.to(device))
        tokens = getattr(ours, name)(picture.flatten(2).mT)
        torch.testing.assert_close(tokens.mT.reshape(picture.shape), convolved, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_text_encoder_computes_what_its_file_says(state, model):
    tokens = model.tokenizer(["a photo of a cat", ""])
    context = model.encode_text(["a photo of a cat", ""])
    assert context.shape == (2, 12, 24)
    assert distance(context, original_sd15.text(state, tokens, heads=12)) < 1e-5


@torch.no_grad()
def test_the_context_is_that_of_the_last_layer(state, model):
    """One layer less, as in SD 2.x, gives something else."""
    last = f"{original_sd15.TEXT}encoder.layers.11."
    shorter = {key: tensor for key, tensor in state.items() if not key.startswith(last)}
    tokens = model.tokenizer("a photo of a cat")
    assert distance(original_sd15.text(shorter, tokens, heads=12), model.encode_text("a photo of a cat")) > 1e-2


# The details of its text


def test_quick_gelu_is_x_sigmoid_of_1702_x(device):
    mlp = MLP(1, 1, quick=True).to(device).requires_grad_(False)
    for layer in (mlp.linear1, mlp.linear2):
        layer.weight.fill_(1.0), layer.bias.zero_()
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 4.0], device=device)[:, None]
    wanted = [number / (1 + math.exp(-1.702 * number)) for number in x[:, 0].tolist()]
    torch.testing.assert_close(mlp(x)[:, 0].tolist(), wanted, rtol=1e-6, atol=1e-7)
    assert abs(mlp(x)[4].item() - 0.845795) < 1e-5  # exact GELU has 0.841345 at 1
    mlp.quick = False
    assert abs(mlp(x)[4].item() - 0.841345) < 1e-5


def test_prompts_are_padded_with_the_end_of_text():
    tokenizer, start, end = meta_model(SD15).tokenizer, 49406, 49407
    assert tokenizer("").tolist() == [[start, *[end] * 76]]
    assert tokenizer("a cat").tolist() == [[start, 320, 2368, *[end] * 74]]


@torch.no_grad()
def test_the_padding_reaches_the_context(model):
    """Padded with zeros, as SD 2.x is, the same prompt means something else from its end on, and not before."""
    ids = model.tokenizer("a cat")
    zeros = ids.clone()
    zeros[:, 4:] = 0
    encoder = model.text_encoder
    eot, zero = (encoder(x.to(encoder.token_embedding.weight.device)) for x in (ids, zeros))
    torch.testing.assert_close(eot[:, :4], zero[:, :4], rtol=1e-5, atol=1e-6)
    assert distance(eot[:, 4:], zero[:, 4:]) > 1e-2
