"""Watching and changing attention: addresses, slots, and the promise that nothing else moves."""

import re
from dataclasses import fields, replace

import golden_bounds
import pytest
import torch
from golden_model import golden, golden_attention, golden_model
from tiny import UNET, distance, tiny_unet, unet_inputs

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
    rounded_otherwise = [(a.half() != b.half()).double().mean() for a, b in zip(values, stored, strict=True)]
    assert max(rounded_otherwise) < golden_bounds.bound(slot, device)


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


@pytest.mark.parametrize("config", [SD21, SD15], ids=lambda config: config.name)
def test_stable_diffusion_has_22_residual_blocks(config):
    with torch.device("meta"):
        unet = UNet(config.unet)
    assert [str(site) for site in unet.feature_sites] == [
        *(f"down.{block}.{layer}.features" for block in range(4) for layer in range(2)),
        *("mid.0.0.features", "mid.0.1.features"),
        *(f"up.{block}.{layer}.features" for block in range(4) for layer in range(3)),
    ]
    assert len(unet.feature_sites) == 22 and len(unet.all_sites) == 54
    assert tuple(site for site in unet.all_sites if site.kind != "features") == unet.sites
    assert [site.scale for site in unet.feature_sites] == [
        *(1, 1, 2, 2, 4, 4, 8, 8, 8, 8),
        *[8] * 3,
        *[4] * 3,
        *[2] * 3,
        *[1] * 3,
    ]


def test_features_are_what_the_second_convolution_gives(unet, inputs):
    seen, given = {}, {}
    blocks = {site: unet.up[site.block].resblocks[site.layer] for site in unet.feature_sites if site.stage == "up"}
    for site, block in blocks.items():
        block.conv2.register_forward_hook(lambda _, __, out, s=site: given.update({s: out}))
    table = {site: Hook(output=reading(lambda x, s=site: seen.update({s: x}))) for site in blocks}
    watched = unet(*inputs, table)
    for block in blocks.values():
        block.conv2._forward_hooks.clear()
    assert seen.keys() == given.keys() and len(seen) == 8
    assert all(torch.equal(seen[site], given[site]) for site in blocks)
    assert torch.equal(watched, unet(*inputs))


def test_every_address_fires_once_in_execution_order(unet, inputs):
    seen = []
    unet(*inputs, {site: Hook(output=reading(lambda _, s=site: seen.append(s))) for site in unet.all_sites})
    assert tuple(seen) == unet.all_sites


def test_features_are_replaced_before_the_shortcut_is_added(unet, inputs):
    site = Site("up", 1, 1, "features")
    block, ran = unet.up[1].resblocks[1], []
    handle = block.register_forward_hook(lambda _, args, out: ran.append((args[0], out)))
    unet(*inputs, quantities([site], features=torch.zeros_like))
    handle.remove()
    assert torch.equal(ran[0][1], block.shortcut(ran[0][0]))


def test_swapped_features_leave_the_source_bitwise_untouched(unet, inputs):
    swapped = unet(*inputs, quantities(unet.all_sites, features=lambda x: x[[0, 0]]))
    plain = unet(*inputs)
    assert torch.equal(swapped[0], plain[0]) and distance(swapped[1], plain[1]) > 1e-2


def test_features_ask_for_residual_blocks(unet, inputs):
    assert set(quantities(unet.all_sites, features=lambda x: x)) == set(unet.feature_sites)
    assert len(quantities(unet.all_sites, features=lambda x: x, M=lambda m: m)) == len(unet.feature_sites) + 7
    with pytest.raises(ValueError, match=r"no residual block is among the sites: add unet\.feature_sites"):
        quantities(unet.sites, features=lambda x: x)
    for hook in (Hook(map=lambda m: m), Hook(qkv=lambda q, k, v: (q, k, v))):
        with pytest.raises(ValueError, match=r"hook at up\.1\.1\.features: .* takes Hook\(output=\.\.\.\) alone"):
            unet(*inputs, {Site("up", 1, 1, "features"): hook})
    both = Hook(output=lambda x: x * 2).then(Hook(output=lambda x: x / 2))
    assert torch.equal(unet(*inputs, {Site("up", 1, 1, "features"): both}), unet(*inputs))


def test_an_unknown_residual_block_lists_the_known_ones(unet, inputs):
    expected = r"no residual block at up\.1\.9\.features; .* this U-Net has 14: down\.0\.0\.features, "
    with pytest.raises(ValueError, match=expected) as caught:
        unet(*inputs, {Site("up", 1, 9, "features"): Hook()})
    assert "self" not in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "complaint"),
    [
        (lambda out: out, r"at up\.2\.0\.self stands a function; wanted a Hook"),
        (Hook(output=None), r"hook at up\.2\.0\.self, slot output: None is no function"),
        (Hook(qkv=3), r"hook at up\.2\.0\.self, slot qkv: a int is no function"),
    ],
)
def test_what_is_no_hook_is_refused_before_the_network_runs(hook, complaint, unet):
    with pytest.raises(ValueError, match=complaint):
        unet.prepare_hooks({UP: hook})


def test_a_table_is_checked_once_and_used_often(unet, inputs, monkeypatch):
    made = []
    check = Hook.checked
    monkeypatch.setattr(Hook, "checked", lambda self, site: made.append(site) or check(self, site))
    plain = dict.fromkeys(unet.sites, Hook(output=lambda out: out[[0, 0]]))
    table = unet.prepare_hooks(plain)
    assert len(made) == len(unet.sites)
    swapped = [unet(*inputs, table) for _ in range(2)]
    assert len(made) == len(unet.sites)
    assert torch.equal(swapped[0], unet(*inputs, plain)) and torch.equal(swapped[0], swapped[1])
    assert len(made) == 2 * len(unet.sites)  # a plain dict is checked at every call
    assert unet.prepare_hooks(table) is table
    assert dict(table) == plain and set(merge(table, {UP: Hook()})) == set(unet.sites)


def test_a_table_does_not_follow_the_dict_it_was_made_of(unet, inputs):
    plain = {UP: Hook(output=lambda out: out[[0, 0]])}
    table = unet.prepare_hooks(plain)
    before = unet(*inputs, table)
    given = plain[UP]
    plain[UP] = Hook(output=torch.zeros_like)
    assert table[UP] is given and torch.equal(unet(*inputs, table), before)


def test_a_table_made_for_another_network_is_checked_again(unet, inputs):
    with torch.device("meta"):
        table = UNet(SD21.unet).prepare_hooks({Site("up", 3, 2, "self"): Hook()})
    with pytest.raises(ValueError, match=r"no attention at up\.3\.2\.self"):
        unet(*inputs, table)


def test_a_hooked_network_compiles_whole(device):
    """No graph breaks: addresses are checked outside, shapes while tracing."""
    unet = tiny_unet(device, replace(UNET, attention_levels=(1,)))
    latents, t, context = unet_inputs(device, side=16)
    rows = torch.tensor([0, 0], device=device)
    hooks = quantities(unet.all_sites, phi=lambda out: out[rows], A=lambda m: m[rows], features=lambda x: x[rows])
    swap_map = {Site("down", 1, 0, "self"): Hook(qkv=lambda q, k, v: (q[rows], k[rows], v))}
    for table in (swap_map, unet.prepare_hooks(merge(hooks, {Site("up", 2, 1, "self"): UNION}))):
        torch._dynamo.reset()
        with torch.no_grad():
            compiled = torch.compile(unet, fullgraph=True, backend="eager")(latents, t, context, table)
            plain = unet(latents, t, context, table)
        assert distance(compiled, plain) < 1e-6
        assert distance(plain, unet(latents, t, context)) > 1e-3


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
        (Hook(qkv=lambda q, k, v: (q[:, :, :9], k, v)), "qkv", "(2, 2, 9, 8)", "(2, 2, 16, 8)"),
        (Hook(qkv=lambda q, k, v: (q, k[..., :4], v)), "qkv", "(2, 2, 16, 4)", "(2, 2, 16, 8)"),
        (Hook(qkv=lambda q, k, v: (q, k[:, :, :0], v[:, :, :0])), "qkv", "(2, 2, 0, 8)", "(2, 2, 16, 8)"),
        (Hook(map=lambda m: m[..., :9]), "map", "(2, 2, 16, 9)", "(2, 2, 16, 16)"),
        (
            Hook(qkv=lambda q, k, v: (q, k, v[:, :, :9])),
            "qkv",
            "queries (2, 2, 16, 8), keys (2, 2, 16, 8) and values (2, 2, 9, 8)",
            "as many values as keys",
        ),
    ],
)
def test_a_wrong_answer_names_site_slot_and_both_shapes(hook, slot, got, wanted, unet, inputs):
    expected = f"hook at up.2.1.self, slot {slot}: returned {got}; wanted {wanted}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        unet(*inputs, {Site("up", 2, 1, "self"): hook})


def moved(slot, *target):
    """A hook whose slot answers in the right shape, but in another dtype or on another device."""
    if slot == "qkv":
        return Hook(qkv=lambda q, k, v: (q, k.to(*target), v))
    return Hook(**{slot: lambda x: x.to(*target)})


@pytest.mark.parametrize("target", [torch.float64, torch.float16, "meta"], ids=str)
@pytest.mark.parametrize(
    "site", ["up.2.1.self:qkv", "up.2.0.cross:map", "up.2.1.self:output", "up.3.0.features:output"]
)
def test_another_dtype_or_device_names_site_slot_and_both(site, target, unet, inputs):
    address, slot = site.split(":")
    stage, block, layer, kind = address.split(".")
    dtype, where = ("float32", "meta") if target == "meta" else (str(target).removeprefix("torch."), inputs[0].device)
    expected = (
        f"hook at {address}, slot {slot}: returned torch.{dtype} on {where}; wanted torch.float32 on {inputs[0].device}"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        unet(*inputs, {Site(stage, int(block), int(layer), kind): moved(slot, target)})


UNION = Hook(qkv=lambda q, k, v: (q, torch.cat([k, k.flip(0)], 2), torch.cat([v, v.flip(0)], 2)))
PLACES = [0, 3, 7]  # inside a mask
WITHIN = Hook(qkv=lambda q, k, v: (q, k[[0, 0]][:, :, PLACES], v[[0, 0]][:, :, PLACES]))


@pytest.mark.parametrize(("hook", "keys"), [(UNION, 32), (WITHIN, 3)], ids=["union", "within"])
def test_keys_and_values_may_change_their_number_together(hook, keys, unet, inputs):
    """Attention over source and target together, or over a reference's places inside its mask."""
    site = Site("up", 2, 1, "self")
    shapes = []
    fused = unet(*inputs, {site: hook})
    mapped = unet(*inputs, {site: hook.then(Hook(map=reading(lambda m: shapes.append(m.shape))))})
    assert shapes == [(2, 2, 16, keys)]
    assert distance(fused, mapped) < 1e-6  # two orders of the same float32 sums
    assert distance(fused, unet(*inputs)) > 1e-3


def test_rows_that_only_borrow_need_not_be_computed(unet, inputs):
    """phi_target := phi_source without the target's own attention: the same, bit for bit, as computing both."""
    seen = []
    lean = Hook(
        qkv=lambda q, k, v: (q[:1], k[:1], v[:1]),
        map=reading(lambda m: seen.append(len(m))),
        output=lambda o: o[[0, 0]],
    )
    full = Hook(map=reading(lambda m: seen.append(len(m))), output=lambda o: o[[0, 0]])
    sites = unet.sites[::2]
    leaner, fuller = (unet(*inputs, dict.fromkeys(sites, hook)) for hook in (lean, full))
    assert seen == [1] * len(sites) + [2] * len(sites)
    torch.testing.assert_close(leaner, fuller, rtol=1e-5, atol=1e-6)  # a smaller batch may sum in another order


def test_rows_left_out_and_not_brought_back_are_an_error(unet, inputs):
    def one(q, k, v):
        return q[:1], k[:1], v[:1]

    with pytest.raises(ValueError, match=r"hook at up\.2\.0\.self, slot qkv: returned \(1, 2, 16, 8\)"):
        unet(*inputs, {UP: Hook(qkv=one)})
    with pytest.raises(ValueError, match=r"hook at up\.2\.0\.self, slot output: 1 rows came back; wanted 2"):
        unet(*inputs, {UP: Hook(qkv=one, output=lambda out: out + 0)})
    with pytest.raises(ValueError, match="the same rows in all"):
        unet(*inputs, {UP: Hook(qkv=lambda q, k, v: (q, k[:1], v[:1]), output=lambda out: out + 0)})


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


@pytest.mark.parametrize("kind", ["sites", "feature_sites"])
def test_hooks_fire_once_when_gradients_are_checkpointed(kind, device):
    unet = tiny_unet(device).requires_grad_(True)
    unet.gradient_checkpointing = True
    seen = []
    table = {site: Hook(output=reading(lambda _, s=site: seen.append(s))) for site in getattr(unet, kind)}
    unet(*unet_inputs(device), table).sum().backward()
    assert tuple(seen) == getattr(unet, kind)


def test_the_slots_of_a_hook():
    assert [field.name for field in fields(Hook)] == ["qkv", "map", "output"]


def test_several_parts_are_attended_each_by_itself(device):
    """The first row over four keys, the second over all; together as if nothing had been cut."""
    unet, inputs = tiny_unet(device), unet_inputs(device)

    def few(q, k, v):
        return q[:1], k[:1, :, :4], v[:1, :, :4]

    parted = Hook(lambda q, k, v: [few(q, k, v), (q[1:], k[1:], v[1:])], output=lambda out: out)
    got = unet(*inputs, {UP: parted})
    whole, first = unet(*inputs), unet(*inputs, {UP: Hook(few, output=lambda out: out[[0, 0]])})
    assert torch.allclose(got[1], whole[1], atol=1e-6) and torch.allclose(got[0], first[0], atol=1e-6)
    assert not torch.allclose(got[0], whole[0], atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"map": lambda maps: maps, "output": lambda out: out}])
def test_parts_want_an_output_that_joins_them_and_no_map(more, device):
    unet, inputs = tiny_unet(device), unet_inputs(device)
    with pytest.raises(ValueError, match=r"slot qkv: returned a list of 2; wanted three tensors"):
        unet(*inputs, {UP: Hook(lambda q, k, v: [(q, k, v), (q, k, v)], **more)})
