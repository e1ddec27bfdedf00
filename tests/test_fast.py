"""What makes a model's calls faster leaves what they compute."""

from copy import deepcopy

import pytest
import torch
from swap_model import SOURCE, TARGET, picture, swap_model
from tiny import distance, normal
from torch._dynamo.utils import counters

from models import fast
from models.attention import attend
from models.fast import fastest_dtype, make_fast
from models.hooks import Hook, HookTable, Site, reading
from photoswap.edits import hook_table
from photoswap.injections import COND, Injection, Row
from photoswap.inversion import invert_image
from photoswap.methods import Photoswap
from photoswap.pictures import Picture
from photoswap.pipeline import swap
from photoswap.tokens import Alignment


def call(model, device, hooks=None):
    context = model.encode_text([SOURCE, TARGET])
    return model.unet(normal(2, 4, 16, 16, device=device), 500, context, hooks or {})


@torch.no_grad()
def test_laid_out_by_place_and_joined_it_computes_the_same(device):
    model = swap_model(device)
    before, names = call(model, device), list(model.unet.state_dict())
    images = model.decode(normal(1, 4, 4, 4, device=device))
    assert make_fast(model) is None
    layer = model.unet.mid.transformers[0].blocks[0].attn1
    assert layer.joint is not None and layer.to_q.weight.data_ptr() == layer.joint.data_ptr()
    assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    error = distance(call(model, device), before)
    print(f"relative error {error:.1e}")
    assert error < 1e-5  # sums in another order
    assert distance(model.decode(normal(1, 4, 4, 4, device=device)), images) < 1e-5
    assert list(model.unet.state_dict()) == names


@torch.no_grad()
def test_joined_weights_are_the_layers_own(device):
    """What loads, learns or merges in place is seen by the joint product; a copy and a move give it up."""
    model = swap_model(device)
    make_fast(model)
    other = swap_model(device, seed=1)
    model.unet.load_state_dict(other.unet.state_dict())
    assert distance(call(model, device), call(other, device)) > 1e-3  # the text encoders differ
    model.text_encoder.load_state_dict(other.text_encoder.state_dict())
    assert distance(call(model, device), call(other, device)) < 1e-5
    copied = deepcopy(model.unet)
    assert copied.mid.transformers[0].blocks[0].attn1.joint is None
    for parameter in model.unet.parameters():
        parameter.zero_()
    assert not call(model, device).any()
    assert copied(normal(1, 4, 16, 16, device=device), 5, model.encode_text("")).any()
    assert model.unet.double().mid.transformers[0].blocks[0].attn1.joint is None


def swapped(model, source, prompt):
    return swap(model, source, prompt, Photoswap(steps=5, phi=1, M=4, A=2)).target_latents


@pytest.mark.slow  # half a minute of tracing each
@pytest.mark.parametrize("part", ["whole", "blocks"])
def test_a_swap_compiles_four_tables_and_the_next_swap_none(part, device):
    """Dynamo alone, without code generation: what it would compile, and that nothing breaks a graph."""
    torch._dynamo.reset()
    model = swap_model(device)
    source = invert_image(model, picture(), SOURCE, "direct", 5)
    other_prompt = SOURCE.replace("cat", "sks dog")
    expected, other = swapped(model, source, TARGET), swapped(model, source, other_prompt)
    warm_up = make_fast(model, part, backend="eager")
    error = distance(swapped(model, source, TARGET), expected)
    print(f"compiled by {part}: {warm_up}, relative error {error:.1e}")
    assert error < 5e-4  # rounding that five guided steps of a random network enlarge; 4e-5 seen
    first = warm_up.graphs
    assert first == 4 if part == "whole" else first <= 64
    assert warm_up.seconds > 0 and f"{first} graphs" in str(warm_up)
    assert distance(swapped(model, source, other_prompt), other) < 5e-4
    assert warm_up.graphs == first


@torch.no_grad()
def test_tables_made_anew_need_no_new_graph(device):
    """What the test above shows of whole swaps, on two layers: index and alignment tensors are inputs of the graph."""
    torch._dynamo.reset()
    sites = tuple(Site("down", 0, i, "cross") for i in range(2))
    compiled = torch.compile(two_layers, backend="eager", fullgraph=True)
    before = counters["stats"]["unique_graphs"]
    for seed in range(3):
        inputs = [normal(3, 2, n, 4, device=device, seed=seed + n) for n in (9, 7, 7)]
        table = aligned_table(sites, device, seed)
        assert distance(compiled(*inputs, table), two_layers(*inputs, table)) < 1e-6
    assert counters["stats"]["unique_graphs"] == before + 1


def two_layers(q, k, v, table):
    heads = [torch.cat([attend(*part) for part in hook.qkv(q, k, v)]) for hook in table.values()]
    return sum(hook.output(each.flatten(2)) for hook, each in zip(table.values(), heads, strict=True))


def aligned_table(sites, device, seed):
    draw = torch.Generator().manual_seed(seed)
    alignment = Alignment(torch.rand(7, 7, generator=draw), torch.rand(7, generator=draw))
    noise, told = torch.zeros(1, 4, 8, 8, device=device), torch.zeros(1, 7, 8, device=device)
    pictures = {"source": Picture(noise, told, told)}
    pictures["target"] = Picture(noise, told, told, alignments={"tokens": alignment})
    injection = Injection("A", sites=sites, halves=COND, alignment="tokens")
    rows = [Row("uncond", "target"), Row("cond", "source"), Row("cond", "target")]
    return HookTable(hook_table([injection], rows, pictures), sites).checked


@torch.no_grad()
def test_where_maps_are_read_nothing_is_compiled(device):
    model, maps = swap_model(device), []
    warm_up = make_fast(model, "whole", backend="eager")
    site = model.unet.sites[0]
    call(model, device, {site: Hook(map=reading(maps.append))})
    assert len(maps) == 1 and warm_up.graphs == 0
    with torch.enable_grad():
        call(model, device)
    assert warm_up.graphs == 0


def test_the_fastest_dtype_follows_what_the_machine_can(monkeypatch):
    cpu = torch.device("cpu")
    for can, channels, wanted in ((True, 320, torch.bfloat16), (True, 32, torch.float32), (False, 320, torch.float32)):
        monkeypatch.setattr(fast, "_cpu_multiplies_bfloat16", lambda can=can: can)
        assert fastest_dtype(cpu, channels) == wanted
    for capability, wanted in (((9, 0), torch.bfloat16), ((7, 5), torch.float16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert fastest_dtype(torch.device("cuda"), 32) == wanted
    assert fastest_dtype(torch.device("mps"), 320) == torch.float32
