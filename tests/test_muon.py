"""train.miniature.muon: orthogonal steps, and what takes them."""

import pytest
import torch
from tiny import UNET, drawn
from torch import nn

from models.unet import UNet
from train.miniature.muon import Muon, orthogonalise, split


def matrices(*shape, device, smallest=0.05, seed=0):
    """Random directions, singular values spread evenly from `smallest` to 1; and the nearest orthogonal matrices."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(noise, full_matrices=False)
    spread = torch.linspace(1, smallest, s.shape[-1], dtype=torch.float64)
    return tuple(x.to(device, torch.float32) for x in (u * spread @ vt, u @ vt))


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16), (1, 1, 9)])
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_singular_values_are_brought_near_one(shape, size, device):
    """The quintic settles in about [0.68, 1.14]; bfloat16's 8 bits add a few percent."""
    x, _ = matrices(*shape, device=device)
    found = orthogonalise(size * x)
    assert found.shape == shape and found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.25


def test_directions_stay(device):
    """The step is a rescaled polar factor: the cosine to it would be 1 if all singular values came out equal."""
    x, wanted = matrices(3, 8, 20, device=device)
    cosine = nn.functional.cosine_similarity(orthogonalise(x).flatten(1), wanted.flatten(1))
    assert cosine.min() > 0.95


def test_nothing_to_follow_moves_nothing(device):
    assert torch.equal(orthogonalise(torch.zeros(1, 3, 5, device=device)), torch.zeros(1, 3, 5, device=device))


def quadratic(device, seed=0):
    """Two weights alike, a convolution and a row; their targets; the squared distance."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(6, 4), (6, 4), (5, 3, 3, 3), (1, 7)]
    targets = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    params = [nn.Parameter(torch.zeros_like(target)) for target in targets]
    return params, lambda: sum((p - t).square().sum() for p, t in zip(params, targets, strict=True))


def descend(optimizer, loss, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return loss().item()


def test_a_quadratic_falls(device):
    params, loss = quadratic(device)
    before, optimizer = loss().item(), Muon(params, lr=1.0)
    for _ in range(10):
        after = descend(optimizer, loss, 5)
        optimizer.param_groups[0]["lr"] *= 0.7  # steps have a fixed length: only a falling rate lets them settle
    assert after < 1e-3 * before


def test_the_first_step_is_a_fifth_of_the_rate_long(device):
    """On AdamW's scale, as arXiv:2502.16982 has it, up to how near one the singular values come."""
    params, loss = quadratic(device)
    descend(Muon(params, lr=0.1), loss, 1)
    for p in params:
        assert 0.6 * 0.02 < p.detach().square().mean().sqrt() < 1.25 * 0.02


def test_weights_of_equal_shape_are_moved_as_if_alone(device):
    params, loss = quadratic(device)
    alone, its_loss = quadratic(device)
    descend(Muon(params, lr=0.1), loss, 3)
    for p in alone:
        descend(Muon([p], lr=0.1), its_loss, 3)
    for p, q in zip(params, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)  # of steps 0.02 long: a batch may sum in another order


def test_what_has_no_gradient_stays(device):
    params, loss = quadratic(device)
    params[1].requires_grad_(False)
    descend(Muon(params, lr=0.1, weight_decay=0.1), loss, 2)
    assert not params[1].any() and params[0].any()


def test_weights_decay(device):
    p = nn.Parameter(torch.ones(3, 4, device=device))
    p.grad = torch.zeros_like(p)
    Muon([p], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(p.detach(), torch.full_like(p, 0.95))


def test_its_state_goes_there_and_back(device, tmp_path):
    """Three steps, a file, and three more are six."""
    params, loss = quadratic(device)
    descend(Muon(params, lr=0.1), loss, 6)
    first, its_loss = quadratic(device)
    optimizer = Muon(first, lr=0.1)
    descend(optimizer, its_loss, 3)
    torch.save((optimizer.state_dict(), [p.detach() for p in first]), tmp_path / "state.pt")
    state, values = torch.load(tmp_path / "state.pt", weights_only=True)
    again, its_loss = quadratic(device)
    with torch.no_grad():
        for p, value in zip(again, values, strict=True):
            p.copy_(value)
    optimizer = Muon(again, lr=0.3)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    descend(optimizer, its_loss, 3)
    assert all(torch.equal(p, q) for p, q in zip(params, again, strict=True))


def test_matrices_take_muon_and_the_rest_adamw():
    model = nn.ModuleDict({"unet": drawn(UNet(UNET), torch.device("cpu")), "token_embedding": nn.Embedding(5, 3)})
    hidden, others = split(model, ("embedding", "conv_in", "conv_out"))
    names = {id(p): name for name, p in model.named_parameters()}
    assert {id(p) for p in hidden} | {id(p) for p in others} == names.keys()
    assert len(hidden) + len(others) == len(names)
    ours, theirs = ({names[id(p)] for p in group} for group in (hidden, others))
    assert {"unet.down.0.resblocks.0.conv1.weight", "unet.mid.transformers.0.blocks.0.attn1.to_q.weight"} <= ours
    assert {"token_embedding.weight", "unet.conv_in.weight", "unet.conv_out.weight", "unet.norm_out.weight"} <= theirs
    assert all(p.ndim >= 2 for p in hidden) and all(name in theirs for name in names.values() if name.endswith("bias"))
