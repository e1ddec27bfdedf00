"""The image encoder: against slow and obvious code, and what is asked of any network."""

from dataclasses import replace

import pytest
import reference
import torch
from tiny import VISION, assert_gradients_reach_everything, assert_rows_are_independent, distance, drawn, normal
from torch import nn

from models import PAINT_BY_EXAMPLE, ImageEncoder, VisionTower
from models.vision import WideLayerNorm


def pictures(device, rows=2):
    return normal(rows, 3, VISION.size, VISION.size, device=device)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_the_tower_equals_the_reference(activation, device):
    tower = drawn(VisionTower(replace(VISION, activation=activation)), device)
    out = tower(pictures(device))
    assert out.shape == (2, VISION.width) and out.dtype == torch.float32
    assert distance(out, reference.vision_tower(tower, pictures(device), getattr(reference, activation))) < 1e-5


@pytest.mark.parametrize("heads", [1, 2])
def test_the_encoder_equals_the_reference(heads, device):
    """The mapper's GELU is exact whatever the tower's is; with one token the number of its heads is all one."""
    encoder = drawn(ImageEncoder(replace(VISION, mapper_heads=heads)), device)
    out = encoder(pictures(device))
    assert out.shape == (2, 1, VISION.context_channels) and out.dtype == torch.float32
    assert distance(out, reference.image_encoder(encoder, pictures(device), reference.quick_gelu)) < 1e-5


def test_gradients_reach_the_tower(device):
    tower = drawn(VisionTower(VISION), device)
    assert_gradients_reach_everything(tower, lambda: tower(pictures(device)))


def test_gradients_reach_everything_but_what_one_token_cannot_train(device):
    """The mapper's queries and keys get rounding and no more; `empty` is read by whoever asks for no picture."""
    encoder = drawn(ImageEncoder(VISION), device)
    (encoder(pictures(device)) * normal(2, 1, 16, device=device, seed=3)).sum().backward()
    encoder.empty.sum().backward()
    largest = {name: p.grad.abs().max().item() for name, p in encoder.named_parameters()}
    idle = {name for name, size in largest.items() if size < 1e-5}  # float32; the others are 1e-2 and more
    assert min(size for name, size in largest.items() if name not in idle) > 1e-3
    assert idle == {f"mapper.{i}.attn.to_{n}.{w}" for i in range(2) for n in "qk" for w in ("weight", "bias")} | {
        f"tower.layers.{i}.attn.to_k.bias"
        for i in range(2)  # adds the same to all logits, which a softmax takes out
    }


def test_rows_are_independent(device):
    encoder = drawn(ImageEncoder(VISION), device)
    assert_rows_are_independent(encoder, pictures(device))


def test_patches_are_told_apart_by_their_places(device):
    tower = drawn(VisionTower(VISION), device)
    assert distance(tower(pictures(device).flip(-1)), tower(pictures(device))) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_float32(dtype, device):
    encoder = drawn(ImageEncoder(VISION), device)
    wide, half = encoder(pictures(device)), encoder.to(dtype)(pictures(device).to(dtype))
    assert half.dtype == dtype
    assert distance(half, wide) < (1e-2 if dtype == torch.float16 else 6e-2)


def test_the_mappers_norms_are_wide(device):
    """Numbers that overflow float16 when squared and summed; and nothing is narrowed in float64."""
    norm, x = drawn(WideLayerNorm(64), device), normal(1, 64, device=device) * 1e4
    half = norm.half()(x.half())
    assert half.dtype == torch.float16 and distance(half, reference.layer_norm(norm, x.half())) < 1e-3
    weight, bias = norm.weight.float(), norm.bias.float()
    assert torch.equal(half, nn.functional.layer_norm(x.half().float(), (64,), weight, bias).half())
    exact = norm.double()(x.double())
    assert exact.dtype == torch.float64 and distance(exact, reference.layer_norm(norm, x.double())) < 1e-14
    with torch.autocast(device.type, torch.bfloat16):
        assert norm.float()(x).dtype == torch.float32


def test_the_published_number_of_parameters():
    """303,179,776 are those of ViT-L/14's tower."""
    with torch.device("meta"):
        encoder = ImageEncoder(PAINT_BY_EXAMPLE.image)
    assert sum(p.numel() for p in encoder.tower.parameters()) == 303_179_776
    assert (len(encoder.tower.layers), len(encoder.mapper)) == (24, 5)


def test_other_shapes_are_refused(device):
    tower = VisionTower(VISION).to(device)
    for shape in ((2, 3, 12, 16), (3, 12, 12), (1, 4, 12, 12)):
        with pytest.raises(ValueError, match=r"the image encoder wants \(b, 3, 12, 12\): resize them first"):
            tower(torch.zeros(shape, device=device))
