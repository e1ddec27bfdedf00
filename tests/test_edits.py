"""What each injection does inside a U-Net whose batch holds source and target."""

import pytest
import torch
from einops import rearrange
from swap_model import SOURCE, TARGET, swap_model

from models import attention
from models.hooks import Hook, merge, reading
from photoswap.edits import hook_table
from photoswap.injections import BOTH, COND, Injection, Row
from photoswap.pictures import Picture
from photoswap.tokens import align, align_prompts

ROWS = [Row(half, picture) for half in BOTH for picture in ("source", "target")]
ROUNDING = 1e-5  # float32: two orders of the same sums
HALVES = {BOTH: [0, 0, 2, 2], COND: [0, 1, 2, 2]}  # the row that each row takes from


@pytest.fixture(scope="module")
def model(device):
    return swap_model(device)


@pytest.fixture(scope="module")
def inputs(model, device):
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
    return latents, 500, model.encode_text(["", "", SOURCE, TARGET]).detach()


@pytest.fixture(scope="module")
def pictures(model, inputs):
    latents, _, contexts = inputs
    inside = torch.arange(8, device=latents.device).expand(8, 8) < 4
    alignments = {"tokens": align_prompts(model.tokenizer, SOURCE, TARGET), "same": align(range(9), range(9))}
    masks = {"left": inside, "right": ~inside, "none": inside & ~inside}
    source = Picture(latents[:1], contexts[2:3], contexts[:1], masks=masks)
    return {
        "source": source,
        "target": Picture(latents[1:2], contexts[3:], contexts[:1], 7.5, None, (), alignments, masks),
    }


@torch.no_grad()
def run(model, inputs, hooks):
    return model.unet(*inputs, hooks)


@pytest.fixture(scope="module")
def table(model, pictures):
    """The hooks of some injections; read: build the maps at every site."""

    def made(*injections, read=()):
        listed = [injection.at(model.unet.sites, (8, 8)) for injection in injections]
        return hook_table(listed, ROWS, pictures, frozenset(read))

    return made


def sites(model, kind):
    return [site for site in model.unet.sites if site.kind == kind]


@pytest.mark.parametrize("halves", HALVES)
@pytest.mark.parametrize(("quantity", "kind"), [("M", "self"), ("queries and keys", "self"), ("A", "cross")])
def test_a_fused_map_injection_equals_gathering_explicit_maps(model, inputs, table, halves, quantity, kind):
    for site in sites(model, kind):
        fused = run(model, inputs, table(Injection(quantity, (site,), halves)))
        explicit = run(model, inputs, {site: Hook(map=lambda m: m[HALVES[halves]])})
        assert torch.allclose(fused, explicit, atol=ROUNDING)


@pytest.mark.parametrize("halves", HALVES)
@pytest.mark.parametrize(("quantity", "kind"), [("phi", "self"), ("psi", "cross")])
def test_an_injected_output_is_the_origin_s(model, inputs, table, halves, quantity, kind):
    for site in sites(model, kind):
        explicit = run(model, inputs, {site: Hook(output=lambda out: out[HALVES[halves]])})
        assert torch.allclose(run(model, inputs, table(Injection(quantity, (site,), halves))), explicit, atol=ROUNDING)


def test_keys_and_values_are_the_origin_s(model, inputs, table):
    rows = HALVES[BOTH]
    for site in sites(model, "self"):
        explicit = run(model, inputs, {site: Hook(qkv=lambda q, k, v: (q, k[rows], v[rows]))})
        assert torch.allclose(run(model, inputs, table(Injection("keys and values", (site,)))), explicit, atol=ROUNDING)


INJECTED = [
    Injection("phi"),
    Injection("M", halves=COND),
    Injection("A", halves=COND),
    Injection("A", halves=COND, alignment="tokens"),
    Injection("keys and values"),
    Injection("keys and values", joined=True),
    Injection("keys and values", within="left"),
    Injection("phi", where="left"),
]


@pytest.mark.parametrize(
    "injection", INJECTED, ids=lambda i: f"{i.quantity} {i.alignment or i.within or i.where} {i.joined}"
)
def test_source_rows_stay_bitwise_untouched_and_target_rows_change(model, inputs, table, injection):
    plain, injected = run(model, inputs, {}), run(model, inputs, table(injection))
    for i, taken in enumerate(HALVES[injection.halves]):
        assert torch.equal(plain[i], injected[i]) == (i == taken)


def test_phi_s_own_attention_is_not_computed(model, inputs, table, monkeypatch):
    """Of four rows two are attended, and both are used twice."""
    rows, attend = [], attention.attend
    monkeypatch.setattr(attention, "attend", lambda q, k, v: rows.append(len(q)) or attend(q, k, v))
    run(model, inputs, table(Injection("phi")))
    assert rows == [2, 4] * len(sites(model, "self"))  # self and cross


def test_no_map_is_built(model, inputs, table, monkeypatch):
    monkeypatch.setattr(attention, "mapped_attention", None)
    for injection in INJECTED:
        run(model, inputs, table(injection))


def test_a_swapped_output_makes_a_map_injection_before_it_void(model, inputs, table):
    both = table(Injection("M", halves=COND), Injection("phi"))
    assert torch.equal(run(model, inputs, table(Injection("phi"))), run(model, inputs, both))


def test_aligned_columns_are_taken_and_the_concept_keeps_its_own(model, inputs, table):
    before, after, cross = [], [], sites(model, "cross")
    swaps = table(Injection("A", halves=COND, alignment="tokens"), read=cross)
    watched = merge({site: Hook(map=reading(before.append)) for site in cross}, swaps)
    run(model, inputs, merge(watched, {site: Hook(map=reading(after.append)) for site in cross}))
    sks = TARGET.split().index("sks") + 1
    end = len(TARGET.split()) + 1
    for a, swapped in zip(before, after, strict=True):
        assert torch.equal(swapped[:3], a[:3])
        for column in range(77):
            wanted = a[3, ..., sks] if column == sks else a[2, ..., column - (sks < column <= end)]
            assert torch.equal(swapped[3, ..., column], wanted)


@pytest.mark.parametrize("injection", INJECTED[:5], ids=lambda i: f"{i.quantity} {i.alignment}")
def test_a_layer_whose_map_is_read_does_the_same(model, inputs, table, injection):
    fused = run(model, inputs, table(injection))
    assert torch.allclose(fused, run(model, inputs, table(injection, read=model.unet.sites)), atol=1e-4)  # all layers


def test_what_is_injected_by_parts_has_no_one_map(model, table):
    with pytest.raises(ValueError, match=r"the map at down\.0\.0\.self is read"):
        table(Injection("phi", where="left"), read=model.unet.sites)


def test_equal_prompts_aligned_are_a_copy_by_index(model, inputs, table):
    for site in sites(model, "cross"):
        aligned = run(model, inputs, table(Injection("A", (site,), COND, alignment="same")))
        assert torch.allclose(aligned, run(model, inputs, table(Injection("A", (site,), COND))), atol=ROUNDING)


def test_joined_keys_and_values_are_one_softmax_over_both(model, inputs, table):
    def both(q, k, v):
        rows = HALVES[BOTH]  # own twice for the source: half the weight each, so the same sum
        return q, torch.cat([k, k[rows]], dim=2), torch.cat([v, v[rows]], dim=2)

    for site in sites(model, "self"):
        doubled = run(model, inputs, {site: Hook(qkv=both)})
        joined = run(model, inputs, table(Injection("keys and values", (site,), joined=True)))
        assert torch.allclose(joined, doubled, atol=ROUNDING)


def test_joined_within_a_mask_are_all_of_one_s_own_places_and_the_origin_s_inside(model, inputs, table):
    inside = (torch.arange(8).expand(8, 8) < 4).flatten()
    target = [1, 3]

    def explicit(q, k, v):
        rows = HALVES[BOTH]
        return q, torch.cat([k, k[rows][:, :, inside]], dim=2), torch.cat([v, v[rows][:, :, inside]], dim=2)

    site = sites(model, "self")[0]  # at the latents' own scale, where the mask needs no shrinking
    seen = []
    for hooks in (
        {site: Hook(qkv=explicit, output=reading(seen.append))},
        merge(
            table(Injection("keys and values", (site,), joined=True, within="left")),
            {site: Hook(output=reading(seen.append))},
        ),
    ):
        run(model, inputs, hooks)
    assert torch.allclose(seen[1][target], seen[0][target], atol=ROUNDING)


def test_places_outside_a_mask_are_not_looked_at(model, inputs, table):
    """Against a softmax whose logits are minus infinity there; a mask that is empty means all places."""
    site = sites(model, "self")[0]
    inside = (torch.arange(8).expand(8, 8) < 4).flatten()

    masked_heads = []

    def masked(q, k, v):
        heads = []
        for i, o in enumerate(HALVES[BOTH]):
            logits = q[i] @ k[o].mT / q.shape[-1] ** 0.5
            heads.append((logits if i == o else logits.masked_fill(~inside, -torch.inf)).softmax(-1) @ v[o])
        masked_heads.append(torch.stack(heads))
        return q, k, v

    got = run(model, inputs, table(Injection("keys and values", (site,), within="left")))
    assert torch.allclose(
        got,
        run(
            model, inputs, {site: Hook(qkv=masked, output=lambda _: rearrange(masked_heads[0], "b h n d -> b n (h d)"))}
        ),
        atol=ROUNDING,
    )
    every = run(model, inputs, table(Injection("keys and values", (site,), within="none")))
    assert torch.allclose(every, run(model, inputs, table(Injection("keys and values", (site,)))), atol=ROUNDING)


def test_where_confines_an_injection_to_places(model, inputs, table):
    site, outputs = sites(model, "self")[0], []
    keep = {site: Hook(output=reading(outputs.append))}
    for injections in ([], [Injection("phi", (site,))], [Injection("phi", (site,), where="left")]):
        run(model, inputs, merge(table(*injections), keep))
    plain, phi, left = (out.unflatten(1, (8, 8)) for out in outputs)
    assert torch.allclose(left[:, :, :4], phi[:, :, :4], atol=1e-6) and torch.allclose(left[:, :, 4:], plain[:, :, 4:])
    both = [Injection("phi", (site,), where="left"), Injection("phi", (site,), where="right")]
    assert torch.allclose(
        run(model, inputs, table(*both)), run(model, inputs, table(Injection("phi", (site,)))), atol=ROUNDING
    )


@pytest.mark.parametrize(
    ("injection", "sentence"),
    [
        (Injection("A", alignment="words"), 'target has no alignment "words"; it has tokens, same'),
        (Injection("phi", where="top"), 'target has no mask "top"; it has left, right, none'),
        (Injection("phi", origin="reference"), "phi goes from reference to target, but there is no reference"),
    ],
)
def test_names_of_nothing_are_refused(table, injection, sentence):
    with pytest.raises(ValueError, match=sentence):
        table(injection)


def test_a_table_compiles_whole(model, inputs, table):
    """No graph breaks, with one call for each number of keys."""
    injections = [Injection("keys and values", joined=True), Injection("A", halves=COND, alignment="tokens")]
    hooks = model.unet.prepare_hooks(table(*injections))
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model.unet, fullgraph=True, backend="eager")(*inputs, hooks)
    assert torch.allclose(compiled, run(model, inputs, hooks), atol=ROUNDING)
