"""train.break_a_scene: the attention loss against a slow version, place by place, and where its gradient goes."""

import pytest
import torch
from tiny_model import tiny_model

from models.config import UNetConfig
from models.unet import UNet
from train.break_a_scene import attention_error, map_readers, outline_sites

COLUMNS = [[2, 3], [4]]  # of each row's word


def maps(count: int = 2, rows: int = 2, h: int = 4, w: int = 6, dtype=torch.float64) -> list[torch.Tensor]:
    """A of several layers as softmax gives it: (rows heads h*w tokens)."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(rows, 3, h * w, 7, generator=generator, dtype=dtype).softmax(-1) for _ in range(count)]


def masks(rows: int = 2, h: int = 8, w: int = 12) -> torch.Tensor:
    """Masks with grey in them."""
    return torch.rand(rows, 1, h, w, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def slow(layers, columns, wanted, scale: int) -> list[float]:
    """One row, one place at a time."""
    rows, _, h, w = wanted.shape
    errors = []
    for i in range(rows):
        heat = []
        for y in range(h // scale):
            for x in range(w // scale):
                place = y * (w // scale) + x
                looks = [A[i, head, place, c].item() for A in layers for head in range(A.shape[1]) for c in columns[i]]
                heat.append((sum(looks) / len(looks), wanted[i, 0, y * scale, x * scale].item()))
        largest = max(value for value, _ in heat)
        errors.append(sum((value / largest - mask) ** 2 for value, mask in heat) / len(heat))
    return errors


@pytest.mark.parametrize("scale", [1, 2])
def test_the_loss_is_that_of_a_slow_version(scale):
    layers = maps(h=8 // scale, w=12 // scale)
    found = attention_error(layers, COLUMNS, masks())
    assert found.tolist() == pytest.approx(slow(layers, COLUMNS, masks(), scale), rel=1e-12)


def test_its_gradient_is_that_of_finite_differences():
    def loss(*layers):
        return attention_error(layers, COLUMNS[:1], masks(rows=1)).sum()

    assert torch.autograd.gradcheck(loss, [layer.requires_grad_() for layer in maps(rows=1)])


def test_a_map_that_is_the_mask_costs_nothing_however_bright():
    wanted = torch.zeros(1, 1, 4, 6, dtype=torch.float64)
    wanted[..., 1:3, 2:5] = 1
    for brightness in (0.9, 0.001):
        layer = torch.zeros(1, 2, 24, 7, dtype=torch.float64)
        layer[..., 2] = brightness * wanted.flatten()
        assert attention_error([layer], [[2]], wanted).item() == 0
        assert attention_error([layer], [[2]], 1 - wanted).item() == 1


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="0 maps, 2 words of 2 rows"):
        attention_error([], COLUMNS, masks())
    for words in ([], COLUMNS[:1], [[2], []]):
        with pytest.raises(ValueError, match="a word for each row"):
            attention_error(maps(), words, masks())
    with pytest.raises(ValueError, match="24 places"):
        attention_error(maps(), COLUMNS, masks(h=10, w=12))


def test_the_layers_are_the_published_five():
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    names = [str(site) for site in outline_sites(unet, 64, 64)]
    assert names == ["down.2.0.cross", "down.2.1.cross", "up.1.0.cross", "up.1.1.cross", "up.1.2.cross"]
    assert {site.scale for site in outline_sites(unet, 32, 32)} == {2}


def test_the_gradient_reaches_queries_and_keys_of_the_layers_read_and_not_those_after_the_last():
    model = tiny_model()
    sites = outline_sites(model.unet, 16, 16)
    kept: list[torch.Tensor] = []
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    context = model.encode_text(["a photo of a sks cat"] * 3)
    model.unet(latents, 500, context, map_readers(sites, kept, rows=2))
    assert [A.shape[0] for A in kept] == [2] * len(sites)
    attention_error(kept, [[5], [5]], masks(h=16, w=16).float()).mean().backward()
    read = [b for b in model.unet.modules() if getattr(b, "cross_site", None) in sites]
    for block in read:
        for weight in (block.attn2.to_q.weight, block.attn2.to_k.weight):
            assert weight.grad is not None and weight.grad.abs().sum() > 0, str(block.cross_site)
    assert read[-1].attn2.to_v.weight.grad is None  # what the last layer gives on has no say in its map
    assert model.text_encoder.token_embedding.weight.grad.abs().sum() > 0
