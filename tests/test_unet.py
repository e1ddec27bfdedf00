"""The U-Net: against stored outputs, and what is asked of any network."""

from collections import Counter
from dataclasses import replace

import golden_bounds
import pytest
import torch
from golden_bounds import assert_golden
from golden_model import golden_model
from tiny import (
    UNET,
    assert_gradients_reach_everything,
    assert_rows_are_independent,
    distance,
    drawn,
    flash_dtype,
    normal,
    tiny_unet,
    unet_inputs,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import SD15, SD21, Hook, ResBlock, SpatialTransformer, TransformerBlock, UNet, UNetConfig, reading

LAYOUTS = ["ldm", "diffusers"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_is_the_golden_one(layout, device):
    assert_golden(golden_bounds.unet_distance(golden_model(layout, device).unet, device), device)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("slot", ["map", "output"])
def test_attention_is_the_golden_one_at_every_site(slot, layout, device):
    assert_golden(golden_bounds.attention_distance(golden_model(layout, device).unet, slot, device), device)


def test_both_layouts_are_bitwise_the_same_network(device):
    ldm, diffusers = (golden_model(layout, device).unet.state_dict() for layout in LAYOUTS)
    assert ldm.keys() == diffusers.keys()
    assert all(torch.equal(ldm[key], diffusers[key]) for key in ldm)


@pytest.mark.parametrize(("config", "count"), [(SD21, 865_910_724), (SD15, 859_520_964)], ids=["sd21", "sd15"])
def test_parameter_counts_are_the_published_ones(config, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(config.unet).parameters()) == count


def test_any_sides_divisible_by_eight_will_do(device):
    unet = tiny_unet(device)
    for height, width in ((8, 8), (8, 24), (16, 8), (24, 40)):
        out = unet(normal(1, 4, height, width, device=device), 500, normal(1, 77, 24, device=device))
        assert out.shape == (1, 4, height, width) and out.dtype == torch.float32
        assert out.isfinite().all()


def test_maps_of_non_square_pictures_have_height_times_width_places(device):
    unet = tiny_unet(device)
    latents, context = normal(1, 4, 8, 16, device=device), normal(1, 7, 24, device=device)
    sizes = {}
    unet(
        latents,
        5,
        context,
        {site: Hook(map=reading(lambda m, s=site: sizes.update({s: m.shape[2]}))) for site in unet.sites},
    )
    assert all(size == (8 // site.scale) * (16 // site.scale) for site, size in sizes.items())


def test_other_inputs_and_head_counts(device):
    config = UNetConfig(
        in_channels=9,
        channels=16,
        multipliers=(1, 1, 1, 2),
        res_blocks=2,
        attention_levels=(1,),
        head_channels=None,
        heads=2,
        context_channels=8,
        groups=4,
        depth=2,
    )
    unet = tiny_unet(device, config)
    assert unet(normal(1, 9, 8, 8, device=device), 3, normal(1, 1, 8, device=device)).shape == (1, 4, 8, 8)
    assert len(unet.sites) == len(set(unet.sites)) == 2 * 2 * (2 + 1 + 3)
    assert unet.mid.transformers[0].blocks[0].attn1.heads == 2


@pytest.mark.parametrize("shape", [(2, 4, 8, 12), (2, 4, 4, 8), (2, 3, 8, 8), (4, 8, 8)])
def test_latents_of_another_shape_are_refused(shape, device):
    unet, (_, t, context) = tiny_unet(device), unet_inputs(device)
    with pytest.raises(
        ValueError, match=r"latents are \(.*\); this U-Net wants \(b, 4, h, w\) with h and w multiples of 8"
    ):
        unet(normal(*shape, device=device), t, context)


@pytest.mark.parametrize("shape", [(2, 7, 32), (1, 7, 24), (7, 24)])
def test_context_of_another_shape_is_refused(shape, device):
    unet, (latents, t, _) = tiny_unet(device), unet_inputs(device)
    with pytest.raises(ValueError, match=r"context is \(.*\); this U-Net wants \(2, 77, 24\).*another text encoder"):
        unet(latents, t, normal(*shape, device=device))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_timesteps_of_another_shape_are_refused(shape, device):
    unet, (latents, _, context) = tiny_unet(device), unet_inputs(device)
    with pytest.raises(ValueError, match="wanted one timestep, or one for each of 2 rows"):
        unet(latents, torch.ones(shape, dtype=torch.long), context)


def test_a_timestep_may_be_a_number_a_scalar_or_a_row_each(device):
    unet, (latents, _, context) = tiny_unet(device), unet_inputs(device)
    each = unet(latents, torch.tensor([7, 7], device=device), context)
    assert torch.equal(unet(latents, 7, context), each)
    assert torch.equal(unet(latents, torch.tensor(7), context), each)
    assert not torch.equal(unet(latents, 8, context), each)


@pytest.mark.parametrize("t", [-1, 1000, 5000, torch.tensor(5000), torch.tensor([3, -1]), float("nan")], ids=str)
def test_timesteps_out_of_range_are_refused(t, device):
    unet, (latents, _, context) = tiny_unet(device), unet_inputs(device)
    with pytest.raises(ValueError, match=r"t is (.*); wanted training timesteps 0 to 999"):
        unet(latents, t, context)
    for fine in (0, 999, torch.tensor([0, 999])):
        assert unet(latents, fine, context).isfinite().all()


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prepared_context_is_bitwise_the_context(layout, hooked, device):
    unet = golden_model(layout, device).unet
    latents, t, context = golden_bounds.unet_inputs(device)
    seen = []

    def swap(q, k, v):
        seen.append((k, v))
        return q, k.flip(0), v

    hooks = {site: Hook(qkv=swap) for site in unet.sites if site.kind == "cross"} if hooked else {}
    with torch.no_grad():
        prepared = unet.prepare_context(context)
        assert torch.equal(unet(latents, t, prepared, hooks), unet(latents, t, context, hooks))
    before, after = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(before) == len(hooks)  # the keys and values a hook sees are the same too
    assert all(torch.equal(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))


def test_a_prepared_context_is_projected_once(device):
    unet, (latents, _, context) = tiny_unet(device), unet_inputs(device)
    runs = []
    for block in (m for m in unet.modules() if isinstance(m, TransformerBlock)):
        block.attn2.to_k.register_forward_hook(lambda *_: runs.append("k"))
        block.attn2.to_v.register_forward_hook(lambda *_: runs.append("v"))
    prepared = unet.prepare_context(context)
    for step in range(3):
        unet(latents, step, prepared)
    assert sorted(runs) == ["k"] * 7 + ["v"] * 7  # once for each of its cross sites, not once a call


def test_where_there_is_no_room_a_context_is_projected_in_each_call(device):
    unet, (latents, t, context) = tiny_unet(device), unet_inputs(device)
    wanted, every = unet(latents, t, context), unet.prepare_context(context)
    sizes = [k.numel() + v.numel() for k, v in every.keys_values.values()]
    for room, count in ((sum(sizes), 7), (sum(sizes) - 1, 6), (min(sizes), 1), (min(sizes) - 1, 0), (-1, 0)):
        prepared = unet.prepare_context(context, room)
        assert len(prepared.keys_values) == count and prepared.shape == tuple(context.shape)
        assert sum(k.numel() + v.numel() for k, v in prepared.keys_values.values()) <= max(room, 0)
        assert torch.equal(unet(latents, t, prepared), wanted)


def test_a_context_prepared_elsewhere_is_refused(device):
    unet, (latents, t, context) = tiny_unet(device), unet_inputs(device)
    other = tiny_unet(device, replace(UNET, attention_levels=(1,)))
    with pytest.raises(ValueError, match="prepared by a U-Net with other sites: call this one's prepare_context"):
        unet(latents, t, other.prepare_context(context))
    with pytest.raises(ValueError, match=r"context is \(1, 7, 24\); this U-Net wants \(2, 77, 24\)"):
        unet(latents, t, unet.prepare_context(context[:1]))
    with pytest.raises(ValueError, match=r"context is \(7, 24\)"):
        unet.prepare_context(context[0])


def test_gradients_reach_everything(device):
    unet = drawn(UNet(UNET), device)
    inputs = unet_inputs(device, side=16)  # a map of one place is always 1 and has no gradient
    assert_gradients_reach_everything(unet, lambda: unet(*inputs))


def test_rows_are_independent(device):
    unet, (latents, t, context) = tiny_unet(device), unet_inputs(device)
    assert_rows_are_independent(lambda z, c: unet(z, t, c), latents, context)


def test_a_fresh_network_predicts_zero(device):
    assert not UNet(UNET).to(device)(*unet_inputs(device)).any()


def test_checkpointing_changes_no_gradient(device):
    unet = drawn(UNet(UNET), device)
    gradients = []
    for unet.gradient_checkpointing in (False, True):
        unet.zero_grad()
        unet(*unet_inputs(device)).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in unet.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("enabled", "runs"), [(False, 1), (True, 2)])
def test_checkpointing_runs_every_block_twice(enabled, runs, device):
    """Forward and again in the backward pass; otherwise it saves no memory, whatever the gradients are."""
    unet = drawn(UNet(UNET), device)
    unet.gradient_checkpointing = enabled
    counts = Counter()
    for name, module in unet.named_modules():
        if isinstance(module, ResBlock | SpatialTransformer):
            counts[name] = 0
            inside = module.norm2 if isinstance(module, ResBlock) else module.norm
            inside.register_forward_hook(lambda *_, name=name: counts.update([name]))
    unet(*unet_inputs(device)).sum().backward()
    assert len(counts) == 14 + 7 and set(counts.values()) == {runs}


def test_checkpointing_keeps_what_a_hook_reads_and_nothing_else(device):
    """The gradient through a map that was read is that without checkpointing, and its block alone runs once."""
    unet = drawn(UNet(UNET), device)
    site = next(site for site in unet.sites if site.kind == "cross")
    counts = Counter()
    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            module.norm.register_forward_hook(lambda *_, sites=module.sites: counts.update(sites[1:2]))
    gradients = []
    for unet.gradient_checkpointing in (False, True):
        unet.zero_grad()
        counts.clear()
        maps = []
        output = unet(*unet_inputs(device), {site: Hook(map=reading(maps.append))})
        (output.square().sum() + maps[0][..., 3].square().sum()).backward()
        gradients.append({name: p.grad.clone() for name, p in unet.named_parameters()})
        assert len(maps) == 1
    assert counts.pop(site) == 1 and set(counts.values()) == {2}
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6)


def test_checkpointing_keeps_fewer_activations(device):
    unet, inputs = drawn(UNet(UNET), device), unet_inputs(device)
    own = {p.data_ptr() for p in unet.parameters()}
    kept = []
    for unet.gradient_checkpointing in (False, True):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.update({} if x.data_ptr() in own else {x.data_ptr(): x.numel()}) or x,
            lambda x: x,
        ):
            output = unet(*inputs)
        kept.append(sum(sizes.values()))
        del output
    assert kept[1] < 0.5 * kept[0]


def test_checkpointing_carries_gradients_to_the_context(device):
    """As null-text inversion needs: only the context is learnt."""
    unet, (latents, t, context) = tiny_unet(device), unet_inputs(device)
    gradients = []
    for unet.gradient_checkpointing in (False, True):
        leaf = context.clone().requires_grad_(True)
        unet(latents, t, leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert distance(gradients[1], gradients[0]) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_float32(dtype, device):
    unet = tiny_unet(device)
    latents, t, context = unet_inputs(device)
    with torch.no_grad():
        wide = unet(latents, t, context)
        half = unet.to(dtype)(latents.to(dtype), t, context.to(dtype))
    assert half.dtype == dtype
    assert distance(half, wide) < (1e-2 if dtype == torch.float16 else 6e-2)  # about eight roundings deep


def test_unhooked_attention_runs_on_the_flash_backend_alone(device):
    dtype = flash_dtype(device)
    unet = tiny_unet(device).to(dtype)
    latents, t, context = unet_inputs(device)
    with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert unet(latents.to(dtype), t, context.to(dtype)).isfinite().all()


def test_unhooked_network_compiles_whole(device):
    unet, inputs = tiny_unet(device, replace(UNET, attention_levels=(1,))), unet_inputs(device)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(unet, fullgraph=True, backend="aot_eager")(*inputs)
        assert distance(compiled, unet(*inputs)) < 1e-6


@pytest.mark.gpu
def test_unhooked_call_peaks_below_one_map(device):
    """At 96 x 96 latents the two finest maps of a row are the largest thing there could be; they are never built."""
    config = UNetConfig(
        channels=32, multipliers=(1, 1, 1, 1), res_blocks=1, head_channels=16, context_channels=8, groups=8
    )
    unet = tiny_unet(device, config).half()
    latents, context = normal(1, 4, 96, 96, device=device).half(), normal(1, 77, 8, device=device).half()
    one_map = 2 * (96 * 96) ** 2 * 2
    with torch.no_grad():
        unet(latents, 1, context)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        unet(latents, 1, context)
        assert torch.cuda.max_memory_allocated() - held < one_map
