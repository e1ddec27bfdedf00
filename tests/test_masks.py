"""The mask of a word: against the recipe written out slowly with every map built."""

import math

import numpy as np
import pytest
import torch
from golden_model import golden_model
from oracle import Controller, network
from PIL import Image
from swap_model import picture, swap_model
from tiny import distance

from models.images import to_tensor
from photoswap.benchmark.scores import inside, overlap
from photoswap.benchmark.shapes import box_overlap
from photoswap.masks import box_of, find_subject, find_subjects, largest_part, overlaid, word_heats
from photoswap.tokens import subject_tokens
from samplers import Schedule


class Collector(Controller):
    """Keeps the maps of all layers with so many places, where the slow U-Net builds them."""

    def __init__(self, places):
        self.places, self.kept = places, {True: [], False: []}

    def borrow(self, q, k, v):
        pass

    def edit(self, maps, is_cross, place):
        if maps.shape[2] == self.places:
            self.kept[is_cross] += [maps[0, head] for head in range(maps.shape[1])]
        return maps


def slow_heat(unet, prediction, latents, context, columns, scale, seed, broken=None):
    """One word's heat at each timestep, place by place."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, dim=0).tolist()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    h, w = latents.shape[2] // scale, latents.shape[3] // scale
    heats = []
    for t in [100, 300, 500] if broken != "timesteps" else [101, 301, 501]:
        z = math.sqrt(alpha_bar[t]) * latents + math.sqrt(1 - alpha_bar[t]) * noise
        control = Collector(h * w)
        network(unet, z, t, context, control)
        A, M = (sum(control.kept[kind]) / len(control.kept[kind]) for kind in (True, False))
        squared = A if broken == "squares" else (M @ A) ** 2 if broken == "order" else A * A
        M = torch.eye(h * w).to(M) if broken in ("spread", "order") else M
        M, squared = M.tolist(), squared.tolist()
        seen = [sum(row[column] for column in columns) / len(columns) for row in squared]
        heat = [sum(share * one for share, one in zip(row, seen, strict=True)) for row in M]
        heats.append([heat[y * w : (y + 1) * w] for y in range(h)])
    return torch.tensor(heats, dtype=latents.dtype)


@pytest.mark.parametrize("scale", [2, 4])
def test_heat_is_that_of_the_recipe_written_out(scale):
    """In float64; measured 2e-15."""
    model = golden_model("ldm", torch.device("cpu"), torch.float64).with_schedule(Schedule(prediction="v"))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    context = torch.randn(1, 77, model.unet.config.context_channels, generator=torch.Generator().manual_seed(2))
    context = context.double()
    for columns in ([2], [3, 4]):
        found = word_heats(model, latents, context, [columns], scale=scale, seed=5)[0]
        with torch.no_grad():
            wanted = slow_heat(model.unet, "v", latents, context, columns, scale, 5)
            assert distance(found, wanted) < 1e-10
            for broken in ("timesteps", "squares", "order", "spread"):
                other = slow_heat(model.unet, "v", latents, context, columns, scale, 5, broken)
                assert distance(found / found.max(), other / other.max()) > 1e-3, broken


def test_three_calls_of_one_row(monkeypatch):
    model, rows = swap_model(torch.device("cpu")), []
    model.unet.register_forward_pre_hook(lambda module, args: rows.append((len(args[0]), args[1])))
    find_subjects(model, picture(), "a cat on a mat", ["cat", "mat"])
    assert rows == [(1, 100), (1, 300), (1, 500)]


def test_the_same_seed_gives_the_same_mask_and_box():
    model = swap_model(torch.device("cpu"))
    once, again = (find_subject(model, picture(200, 140), "a cat on a mat", "cat", seed=3) for _ in range(2))
    assert once.mask.tobytes() == again.mask.tobytes() and once.box == again.box == box_of(once.mask)
    assert once.mask.size == (200, 140) and set(np.unique(once.mask)) <= {0, 255}
    assert not torch.equal(once.heat, find_subject(model, picture(200, 140), "a cat on a mat", "cat", seed=4).heat)


def test_the_mask_is_the_largest_part_above_half_of_the_heat_at_any_timestep():
    model = sharp_model()
    found = find_subject(model, picture(), "a cat on a mat", "cat")
    prompt = "a cat on a mat"
    with torch.no_grad():
        latents, context = model.encode_image(to_tensor(picture())[None]), model.encode_text(prompt)
        heats = word_heats(model, latents, context, [subject_tokens(model.tokenizer, prompt, "cat")])[0]
    wanted = np.zeros((128, 128), dtype=bool)
    for heat in heats:
        big = torch.nn.functional.interpolate((heat / heat.max())[None, None], (128, 128), mode="bilinear")[0, 0]
        wanted |= slow_largest((big / big.max() >= 0.5).numpy())
    assert 0 < wanted.sum() < wanted.size
    assert (np.array(found.mask) > 0).tolist() == wanted.tolist()


def sharp_model():
    """Drawn at random a network looks everywhere nearly alike; with larger queries it looks somewhere."""
    model = swap_model(torch.device("cpu"))
    for name, parameter in model.unet.named_parameters():
        if name.endswith("to_q.weight"):
            parameter.data *= 12
    return model


def slow_largest(mask):
    """By filling, place by place; corners touch."""
    left, best = {tuple(place) for place in np.argwhere(mask).tolist()}, set()
    for first in sorted(left):
        if first not in left:
            continue
        part, edge = {first}, [first]
        left.discard(first)
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            part |= near
            edge += near
        best = part if len(part) > len(best) else best
    kept = np.zeros_like(mask)
    for place in best:
        kept[place] = True
    return kept


@pytest.mark.parametrize("seed", range(12))
def test_the_largest_part_is_that_found_by_filling(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((17, 23)) < (0.2, 0.4, 0.6)[seed % 3]
    assert (largest_part(mask) == slow_largest(mask)).all()
    assert largest_part(mask).sum() < mask.sum() or seed % 3 == 2


def test_nothing_has_no_part_and_no_box():
    assert not largest_part(np.zeros((3, 4), dtype=bool)).any()
    with pytest.raises(ValueError, match="black everywhere"):
        box_of(Image.new("L", (8, 8)))


def test_two_words_share_no_place():
    model = sharp_model()
    found = find_subjects(model, picture(), "a cat on a mat", ["cat", "mat"])
    masks = [np.array(one.mask) > 0 for one in found]
    alone = [np.array(find_subject(model, picture(), "a cat on a mat", word).mask) > 0 for word in ("cat", "mat")]
    assert (alone[0] & alone[1]).any(), "the words must compete for this to show anything"
    assert not (masks[0] & masks[1]).any() and all(mask.any() for mask in masks)
    hotter = (found[0].heat > found[1].heat).numpy()
    assert hotter[masks[0] & alone[1]].all() and not hotter[masks[1] & alone[0]].any()


@pytest.mark.parametrize(("size", "wanted"), [((64, 64), 4), ((96, 96), 4), ((48, 64), 2), ((16, 16), 1), ((8, 8), 1)])
def test_the_scale_is_the_published_one_where_sixteen_places_are_left(size, wanted):
    assert swap_model(torch.device("cpu")).unet.outline_scale(*size) == wanted


def test_words_and_scales_that_are_not_there():
    model = swap_model(torch.device("cpu"))
    with pytest.raises(ValueError, match='lacks the subject\'s word "dog"'):
        find_subject(model, picture(), "a cat on a mat", "dog")
    with pytest.raises(ValueError, match=r"no attention layers at scale 3; want one of 1, 2, 4"):
        find_subject(model, picture(), "a cat on a mat", "cat", scale=3)


def test_an_overlay_changes_the_mask_alone():
    mask = Image.new("L", (128, 128))
    mask.paste(255, (20, 30, 60, 70))
    laid, plain = np.array(overlaid(picture(), mask)), np.array(picture())
    assert ((laid != plain).any(axis=2) <= (np.array(mask) > 0)).all() and (laid[40, 40] != plain[40, 40]).any()


def test_overlaps():
    left, right = Image.new("L", (8, 8)), Image.new("L", (8, 8))
    left.paste(255, (0, 0, 4, 8))
    right.paste(255, (2, 0, 8, 8))
    assert overlap(inside(left), inside(right)) == box_overlap(box_of(left), box_of(right)) == 16 / 64
    assert box_overlap((0, 0, 2, 2), (4, 4, 6, 6)) == 0
