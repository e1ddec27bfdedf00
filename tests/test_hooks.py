"""Watching and changing attention: addresses, slots, and the promise that nothing else moves."""

import re
from dataclasses import fields

import pytest
import torch
from golden_model import golden, golden_attention, golden_model
from tiny import distance, tiny_unet, unet_inputs

from models import SD15, SD21, Hook, Site, UNet, merge, quantities, reading

UP = Site("up", 2, 0, "self")


@pytest.fixture(scope="module")
def unet(device):
    return tiny_unet(device)


@pytest.fixture(scope="module")
def inputs(device):
    return unet_inputs(device)


def recording(unet, slot):
    """A table that writes down what one slot sees at every site, and the list it writes to."""
    seen = []
    table = {site: Hook(**{slot: reading(lambda x, s=site: seen.append((s, x)))}) for site in unet.sites}
    return table, seen


@pytest.mark.parametrize("config", [SD21, SD15], ids=lambda config: config.name)
def test_stable_diffusion_has_32_sites(config):
    with torch.device("meta"):
        sites = UNet(config.unet).sites
    assert [str(site) for site in sites[::2]] == [
        *("down.0.0.self", "down.0.1.self", "down.1.0.self", "down.1.1.self", "down.2.0.self", "down.2.1.self"),
        "mid.0.0.self",
        *("up.1.0.self", "up.1.1.self", "up.1.2.self", "up.2.0.self", "up.2.1.self", "up.2.2.self"),
        *("up.3.0.self", "up.3.1.self", "up.3.2.self"),
    ]
    assert sites[1::2] == tuple(site._replace(kind="cross") for site in sites[::2])
    assert [site.scale for site in sites[::2]] == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert len(set(sites)) == 32


def test_scale_is_how_much_smaller_the_map_is(unet, inputs):
    table, seen = recording(unet, "map")
    unet(*inputs, table)
    for site, found in seen:
        places = (8 // site.scale) ** 2
        heads = unet.config.heads_at(unet.config.widths[[1, 2, 4, 8].index(site.scale)])
        assert found.shape == (2, heads, places, places if site.kind == "self" else 7)


def test_an_empty_table_is_bitwise_none(unet, inputs):
    assert torch.equal(unet(*inputs, hooks={}), unet(*inputs))


@pytest.mark.parametrize("slot", ["map", "output"])
def test_every_site_fires_once_in_execution_order(slot, unet, inputs):
    table, seen = recording(unet, slot)
    unet(*inputs, table)
    assert tuple(site for site, _ in seen) == unet.sites


def test_nothing_is_left_behind(unet, inputs):
    before = unet(*inputs)
    state = {name: set(vars(module)) for name, module in unet.named_modules()}
    table, seen = recording(unet, "map")
    unet(*inputs, merge(table, {UP: Hook(output=torch.zeros_like)}))
    fired = len(seen)
    assert torch.equal(unet(*inputs), before)
    assert len(seen) == fired
    assert {name: set(vars(module)) for name, module in unet.named_modules()} == state


def test_a_failing_hook_leaves_nothing_behind(unet, inputs):
    before = unet(*inputs)
    with pytest.raises(ZeroDivisionError):
        unet(*inputs, {UP: Hook(map=reading(lambda m: 1 / 0))})
    assert torch.equal(unet(*inputs), before)


def test_reading_outputs_is_bitwise_none(unet, inputs):
    table, _ = recording(unet, "output")
    assert torch.equal(unet(*inputs, table), unet(*inputs))


def test_reading_maps_changes_only_rounding(unet, inputs):
    table, _ = recording(unet, "map")
    assert distance(unet(*inputs, table), unet(*inputs)) < 1e-5  # mapped and fused sums differ in order


@pytest.mark.parametrize("letter", ["M", "A", "phi", "psi"])
def test_the_papers_letters_read_the_golden_values(letter, device):
    model = golden_model("ldm", device).unet
    values = []
    with torch.no_grad():
        table = quantities(model.sites, **{letter: reading(values.append)})
        model(*(golden(f"unet.{key}", device) for key in ("latent", "timestep", "context")), table)
    kind, slot = {"M": ("self", "map"), "A": ("cross", "map"), "phi": ("self", "output"), "psi": ("cross", "output")}[
        letter
    ]
    stored = [x for site, x in golden_attention(model.sites, slot, device).items() if site.kind == kind]
    assert len(values) == len(stored) == 10
    for ours, theirs in zip(values, stored, strict=True):
        assert distance(ours, theirs) < 1e-3  # stored in half precision


def test_letters_can_be_combined_and_leave_other_sites_alone(unet):
    table = quantities(unet.sites[:4], M=lambda m: m, psi=lambda out: out)
    assert tuple(table) == unet.sites[:4]
    assert [table[site].map is not None for site in table] == [True, False, True, False]
    assert quantities(unet.sites) == {}
    assert set(quantities(unet.sites, A=lambda m: m)) == set(unet.sites[1::2])


@pytest.mark.parametrize("letter", ["M", "A", "phi", "psi"])
def test_a_replaced_quantity_changes_what_comes_after_and_nothing_before(letter, unet, inputs):
    kind = "self" if letter in ("M", "phi") else "cross"
    site = UP._replace(kind=kind)
    position = unet.sites.index(site)
    outputs, before = recording(unet, "output")
    plain = unet(*inputs, outputs)
    swapped, after = recording(unet, "output")
    changed = unet(*inputs, merge(quantities([site], **{letter: lambda x: x[[0, 0]]}), swapped))
    for i, ((_, was), (_, now)) in enumerate(zip(before, after, strict=True)):
        if i < position:
            assert torch.equal(now, was)
        elif i > position:
            assert not torch.equal(now[1], was[1])
    assert not torch.equal(changed[1], plain[1])
    if letter in ("phi", "psi"):
        assert torch.equal(after[position][1], before[position][1][[0, 0]])
        assert torch.equal(changed[0], plain[0])


def test_a_quantity_replaced_by_itself_changes_nothing(unet, inputs):
    stored = {}
    for slot in ("map", "output"):
        table, seen = recording(unet, slot)
        mapped = unet(*inputs, table)
        stored = {site: Hook(**{slot: lambda _, x=x: x}) for site, x in seen}
        assert torch.equal(unet(*inputs, stored), mapped)


def test_a_fused_swap_of_M_equals_swapping_maps(unet, inputs):
    rows = [0, 0]
    self_sites = [site for site in unet.sites if site.kind == "self"]
    fused = unet(*inputs, {site: Hook(qkv=lambda q, k, v: (q[rows], k[rows], v)) for site in self_sites})
    explicit = unet(*inputs, quantities(unet.sites, M=lambda m: m[rows]))
    plain = unet(*inputs)
    assert distance(fused, explicit) < 1e-5  # float32 rounding through the whole network
    assert distance(fused[1], plain[1]) > 1e-2
    assert torch.equal(fused[0], plain[0])


def test_a_fused_swap_of_M_equals_swapping_maps_exactly_in_float64(device):
    unet = tiny_unet(device).double()
    latents, t, context = unet_inputs(device)
    inputs = latents.double(), t, context.double()
    fused = unet(*inputs, {site: Hook(qkv=lambda q, k, v: (q[[0, 0]], k[[0, 0]], v)) for site in unet.sites[::2]})
    explicit = unet(*inputs, quantities(unet.sites, M=lambda m: m[[0, 0]]))
    assert distance(fused, explicit) < 1e-13


def test_source_rows_stay_bitwise_untouched(device):
    """Rows: uncond source, uncond target, cond source, cond target; the target borrows in every way at once."""
    unet = tiny_unet(device)
    inputs = unet_inputs(device, rows=4)
    rows = [0, 0, 2, 2]
    swap = Hook(qkv=lambda q, k, v: (q[rows], k[rows], v), output=lambda out: out[rows])
    plain, swapped = unet(*inputs), unet(*inputs, dict.fromkeys(unet.sites, swap))
    assert torch.equal(swapped[[0, 2]], plain[[0, 2]])
    assert not torch.equal(swapped[[1, 3]], plain[[1, 3]])


def test_an_unknown_address_lists_the_known_ones(unet, inputs):
    with pytest.raises(ValueError, match=r"no attention at up\.9\.0\.self; .* this U-Net has 14: down\.0\.0\.self, "):
        unet(*inputs, {Site("up", 9, 0, "self"): Hook()})
    with pytest.raises(ValueError, match=r"no attention at 'up\.2\.0\.self'; hooks are addressed by a Site"):
        unet(*inputs, {"up.2.0.self": Hook()})  # the name of a site is not its address


def forgetful(*_):
    return None


def cut(x):
    return x[:1]


@pytest.mark.parametrize(
    ("hook", "slot", "got", "wanted"),
    [
        (Hook(map=forgetful), "map", "None", "(2, 2, 16, 16)"),
        (Hook(map=cut), "map", "(1, 2, 16, 16)", "(2, 2, 16, 16)"),
        (Hook(map=lambda m: 3), "map", "a int", "(2, 2, 16, 16)"),
        (Hook(output=forgetful), "output", "None", "(2, 16, 16)"),
        (Hook(output=cut), "output", "(1, 16, 16)", "(2, 16, 16)"),
        (Hook(qkv=forgetful), "qkv", "None", "three tensors, (2, 2, 16, 8), (2, 2, 16, 8) and (2, 2, 16, 8)"),
        (Hook(qkv=lambda q, k, v: (q, k)), "qkv", "a tuple of 2", "three tensors, (2, 2, 16, 8), "),
        (Hook(qkv=lambda q, k, v: (q, k, None)), "qkv", "None", "(2, 2, 16, 8)"),
        (Hook(qkv=lambda q, k, v: (q, k, cut(v))), "qkv", "(1, 2, 16, 8)", "(2, 2, 16, 8)"),
    ],
)
def test_a_wrong_answer_names_site_slot_and_both_shapes(hook, slot, got, wanted, unet, inputs):
    expected = f"hook at up.2.1.self, slot {slot}: returned {got}; wanted {wanted}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        unet(*inputs, {Site("up", 2, 1, "self"): hook})


def test_hooks_at_one_site_act_in_order():
    double, shift = Hook(map=lambda m: m * 2, output=lambda o: o * 2), Hook(map=lambda m: m + 1, output=lambda o: o + 1)
    one = torch.ones(1)
    both = double.then(shift)
    assert both.map(one) == 3 and both.output(one) == 3
    assert shift.then(double).map(one) == 4
    swap = Hook(qkv=lambda q, k, v: (k, q, v)).then(Hook(qkv=lambda q, k, v: (q, k, q)))
    assert swap.qkv(1, 2, 3) == (2, 1, 2)
    assert Hook().then(Hook()).map is None
    assert Hook().then(double).map is double.map and double.then(Hook()).map is double.map


def test_merged_tables_show_later_readers_the_edited_map(unet, inputs):
    other = unet.sites[0]
    seen = []
    edit, read = quantities([UP], M=lambda m: m[[0, 0]]), quantities([UP, other], M=reading(seen.append))
    merged = merge(edit, read)
    assert set(merged) == {UP, other}
    unet(*inputs, merged)
    assert torch.equal(seen[1][0], seen[1][1]) and not torch.equal(seen[0][0], seen[0][1])
    assert set(edit) == {UP} and set(read) == {UP, other}  # the tables given are left as they were


def test_hooks_fire_once_when_gradients_are_checkpointed(device):
    unet = tiny_unet(device).requires_grad_(True)
    unet.gradient_checkpointing = True
    table, seen = recording(unet, "output")
    unet(*unet_inputs(device), table).sum().backward()
    assert len(seen) == len(unet.sites)


def test_the_slots_of_a_hook():
    assert [field.name for field in fields(Hook)] == ["qkv", "map", "output"]
