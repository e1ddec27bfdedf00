"""The attention-derived mask, what it is read from, and what it keeps."""

import pytest
import torch
from swap_model import SOURCE, TARGET, swap_model

from models.hooks import Hook, Site, merge, reading
from photoswap.blend import Blend, LocalBlend, keep_source, subject_mask
from photoswap.edits import hook_table
from photoswap.injections import COND, Injection, Row
from photoswap.method import Run
from photoswap.pictures import Picture
from photoswap.tokens import align_prompts


def heat(places, values=1.0):
    """Attention on a 4 x 4 grid for source and target, strong at the one place given for each."""
    maps = torch.zeros(2, 4, 4)
    for row, (y, x) in enumerate(places):
        maps[row, y, x] = values
    return maps.flatten(1)


def test_the_mask_unites_both_subjects_widened_by_one_place():
    mask = subject_mask(heat([(0, 0), (3, 3)]), Blend(), (16, 16))
    wanted = torch.zeros(4, 4, dtype=torch.bool)
    wanted[:2, :2] = wanted[2:, 2:] = True
    assert mask.shape == (1, 1, 16, 16) and mask.dtype == torch.bool
    assert torch.equal(mask[0, 0], wanted.repeat_interleave(4, 0).repeat_interleave(4, 1))


def test_each_map_is_measured_against_its_own_maximum():
    maps = heat([(0, 0), (3, 3)])
    maps[0] *= 1000
    assert torch.equal(subject_mask(maps, Blend(), (16, 16)), subject_mask(heat([(0, 0), (3, 3)]), Blend(), (16, 16)))


@pytest.mark.parametrize(("faint", "inside"), [(0.29, False), (0.31, True)])
def test_the_threshold_is_a_share_of_the_maximum(faint, inside):
    maps = heat([(0, 0), (0, 0)])
    maps[:, 15] = faint
    assert subject_mask(maps, Blend(threshold=0.3), (16, 16))[0, 0, 15, 15].item() is inside


def test_a_grid_need_not_be_square():
    maps = torch.zeros(2, 2, 6)
    maps[:, 0, 5] = 1
    mask = subject_mask(maps.flatten(1), Blend(), (8, 24))
    assert mask.shape == (1, 1, 8, 24) and mask[..., 16:].all() and not mask[..., :16].any()


def test_outside_the_mask_the_latents_are_bitwise_the_source_s():
    source, target = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :3] = True
    kept = keep_source(source, target, mask)
    assert torch.equal(kept[..., :3], target[..., :3]) and torch.equal(kept[..., 3:], source[..., 3:])


ROWS = (Row("uncond", "target"), Row("cond", "source"), Row("cond", "target"))


def run_of(model, latents, words, alignments=None):
    """A run with a source and a target, of whose prompts these columns are the subject's."""
    contexts = model.encode_text([SOURCE, TARGET])
    source = Picture(latents[:1], contexts[:1], contexts[:1], words=words[0])
    target = Picture(latents[:1], contexts[1:], contexts[:1], words=words[1], alignments=alignments or {})
    return Run(model.unet, model.schedule, model.schedule.sampling(10), {"source": source, "target": target})


@torch.no_grad()
def test_it_reads_the_maps_as_they_were_used(device):
    model = swap_model(device)
    context = model.encode_text(["", SOURCE, TARGET])
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    cross = [site for site in model.unet.sites if site.kind == "cross"]
    aligned = {"tokens": align_prompts(model.tokenizer, SOURCE, TARGET)}
    run = run_of(model, latents, ([5], [5, 6]), aligned)  # "cat" in the source, "sks cat" in the target
    blend, used = LocalBlend(Blend(), run), []
    watching = blend.hooks(ROWS, model.unet.sites)
    injection = Injection("A", halves=COND, alignment="tokens").at(model.unet.sites, (16, 16))
    hooks = merge(hook_table([injection], ROWS, run.pictures, watching.keys()), watching)
    read = [s for s in cross if s.scale == 4]
    model.unet(latents, 500, context, merge(hooks, {s: Hook(map=reading(used.append)) for s in read}))
    assert len(blend.seen) == len(used) == len(read) > 0
    for got, a in zip(blend.seen, used, strict=True):
        wanted = torch.stack([a[1, ..., 5].mean(dim=0), a[2, ..., 5:7].sum(dim=-1).mean(dim=0)])
        assert got.shape == (2, 16) and torch.allclose(got, wanted, atol=1e-6)  # two orders of a short sum
        assert torch.equal(a[2, ..., 6], a[1, ..., 5])  # the injection came first


def test_a_network_without_such_sites_and_a_run_without_words_are_refused(device):
    model = swap_model(device)
    latents = torch.zeros(1, 4, 16, 16, device=device)
    with pytest.raises(ValueError, match="scale 4"):
        LocalBlend(Blend(), run_of(model, latents, ([1], [1]))).hooks(ROWS, [Site("down", 0, 0, "cross")])
    with pytest.raises(ValueError, match="name both"):
        LocalBlend(Blend(), run_of(model, latents, ([1], ())))


def test_it_starts_after_a_fifth_of_the_steps():
    assert [Blend().start_at(steps) for steps in (50, 20, 4)] == [10, 4, 0]
    assert Blend(start=3).start_at(50) == 3


@pytest.mark.parametrize(
    "settings", [{"threshold": 0.0}, {"threshold": 1.0}, {"start": -1}, {"start": 0.2}, {"scale": 3}]
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(ValueError, match="the blend"):
        Blend(**settings)
