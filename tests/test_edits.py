"""What each edit does inside a U-Net of four rows."""

import pytest
import torch
from swap_model import SOURCE, TARGET, swap_model

from models.hooks import Hook, merge, quantities, reading
from photoswap.edits import swap_cross_map, swap_map, swap_output
from photoswap.tokens import align, align_prompts

BOTH, COND = [0, 0, 2, 2], [0, 1, 2, 2]


@pytest.fixture(scope="module")
def model(device):
    return swap_model(device)


@pytest.fixture(scope="module")
def inputs(model, device):
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
    return latents, 500, model.encode_text(["", "", SOURCE, TARGET]).detach()


@torch.no_grad()
def run(model, inputs, hooks):
    return model.unet(*inputs, hooks)


def sites(model, kind):
    return [site for site in model.unet.sites if site.kind == kind]


@pytest.mark.parametrize("rows", [BOTH, COND])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_a_fused_map_swap_equals_swapping_explicit_maps(model, inputs, rows, kind):
    for site in sites(model, kind):
        fused = run(model, inputs, {site: swap_map(rows)})
        explicit = run(model, inputs, {site: Hook(map=lambda m: m[rows])})
        assert torch.allclose(fused, explicit, atol=1e-5)  # float32, two orders of the same sums


@pytest.mark.parametrize("maker", [swap_map, swap_output])
@pytest.mark.parametrize("rows", [BOTH, COND])
def test_source_rows_stay_bitwise_untouched_and_target_rows_change(model, inputs, maker, rows):
    plain = run(model, inputs, {})
    swapped = run(model, inputs, {site: maker(rows) for site in sites(model, "self")})
    borrowing = [i for i in range(4) if rows[i] != i]
    for i in range(4):
        assert torch.equal(plain[i], swapped[i]) == (i not in borrowing)


def test_a_swapped_output_is_the_source_s(model, inputs):
    seen = []
    table = {site: swap_output(BOTH).then(Hook(output=reading(seen.append))) for site in sites(model, "self")}
    run(model, inputs, table)
    assert len(seen) == len(sites(model, "self"))
    assert all(torch.equal(out[0], out[1]) and torch.equal(out[2], out[3]) for out in seen)


def test_swapping_the_output_makes_a_map_swap_there_void(model, inputs):
    phi = {site: swap_output(BOTH) for site in sites(model, "self")}
    both = merge({site: swap_map(COND) for site in sites(model, "self")}, phi)
    assert torch.equal(run(model, inputs, phi), run(model, inputs, both))


def test_aligned_columns_are_borrowed_and_the_concept_keeps_its_own(model, inputs):
    alignment, before, after = align_prompts(model.tokenizer, SOURCE, TARGET), [], []
    table = {
        site: Hook(map=reading(before.append))
        .then(swap_cross_map(COND, alignment))
        .then(Hook(map=reading(after.append)))
        for site in sites(model, "cross")
    }
    run(model, inputs, table)
    sks = TARGET.split().index("sks") + 1
    end = len(TARGET.split()) + 1
    for a, swapped in zip(before, after, strict=True):
        assert torch.equal(swapped[:3], a[:3])
        for column in range(77):
            wanted = a[3, ..., sks] if column == sks else a[2, ..., column - (sks < column <= end)]
            assert torch.equal(swapped[3, ..., column], wanted)


def test_source_rows_stay_bitwise_untouched_by_an_aligned_swap(model, inputs):
    alignment = align_prompts(model.tokenizer, SOURCE, TARGET)
    watched = quantities(sites(model, "cross"), A=lambda a: a)
    plain = run(model, inputs, watched)
    swapped = run(model, inputs, {site: swap_cross_map(COND, alignment) for site in sites(model, "cross")})
    assert torch.equal(plain[:3], swapped[:3]) and not torch.equal(plain[3], swapped[3])


def test_equal_prompts_aligned_are_a_copy_by_index(model, inputs):
    alignment = align(range(9), range(9))
    for site in sites(model, "cross"):
        aligned = run(model, inputs, {site: swap_cross_map(COND, alignment)})
        assert torch.allclose(aligned, run(model, inputs, {site: swap_map(COND)}), atol=1e-5)  # fused against mapped
