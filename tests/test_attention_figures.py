"""What attention sees: against maps kept one and all, sums that do not grow, and the command's files."""

import gc
import json

import pytest
import torch
import torch.nn.functional as F
from command_line import PROMPT, files, refused
from PIL import Image
from swap_model import SOURCE, picture, swap_model
from tiny import distance

from models.hooks import Hook, reading
from models.tokenizer import Tokenizer
from photoswap.__main__ import main
from photoswap.figures.attention import leading, look, word_columns
from photoswap.figures.drawing import component_shares, grey, in_colours, overlay, stretched
from photoswap.inversion import invert_image, synthesize

STEPS = 3


@pytest.fixture(scope="module")
def model(device):
    return swap_model(device)


@pytest.fixture(scope="module")
def inversion(model):
    return invert_image(model, picture(128, 64), SOURCE, steps=STEPS, size=(128, 64))


def kept_one_and_all(model, inversion, kind, grid):
    """The slow version: every map of every layer and step kept, each resized along its queries and along its keys."""
    kept = []
    sites = [site for site in model.unet.sites if site.kind == kind]
    for step in model.schedule.sampling(inversion.steps):
        hooks = {site: Hook(map=reading(lambda m, site=site: kept.append((site, m.mean(dim=1)[0])))) for site in sites}
        latents = inversion.source_at(step.index - 1).to(model.device)
        with torch.no_grad():
            model.unet(latents, step.t, model.encode_text(inversion.prompt), hooks)
    assert len(kept) == len(sites) * STEPS
    total = 0
    for site, map_ in kept:
        h, w = (side // site.scale for side in inversion.trajectory.shape[2:])
        queries = resized(map_.T.reshape(-1, h, w), grid).flatten(1).T
        if kind == "cross":
            total = total + queries
            continue
        # a key's share goes to the places that resizing makes of it, as much in all as it had
        units = resized(torch.eye(h * w).to(map_).reshape(-1, h, w), grid).flatten(1)
        total = total + queries @ (units / units.sum(dim=1, keepdim=True))
    return total / len(kept)


def resized(maps, grid):
    return F.interpolate(maps[None], grid, mode="bilinear", align_corners=False, antialias=True)[0]


@pytest.mark.parametrize("resolution", [None, 12])
def test_running_sums_are_the_mean_of_all_maps(model, inversion, resolution):
    seen = look(model, inversion, resolution=resolution)
    assert seen.grid == ((8, 16) if resolution is None else (6, 12)) and seen.steps == (0, 1, 2)
    assert distance(seen.M, kept_one_and_all(model, inversion, "self", seen.grid)) < 1e-5
    A = kept_one_and_all(model, inversion, "cross", seen.grid)
    assert distance(seen.A, A.T.reshape(77, *seen.grid)) < 1e-5
    assert (seen.M.sum(dim=1) - 1).abs().max() < 1e-5 and (seen.A.sum(dim=0) - 1).abs().max() < 1e-5


def test_layers_quantities_and_single_steps(model, inversion):
    ones = []
    A = look(model, inversion, quantities=("A",), layers=("up.3", "mid"), at=(0, 2), on_step=ones.append)
    assert A.M is None and [one.steps for one in ones] == [(0,), (2,)]
    every = []
    both = look(model, inversion, at=range(STEPS), on_step=every.append)
    assert distance(torch.stack([one.M for one in every]).mean(dim=0), both.M) < 1e-6
    assert distance(A.A, both.A) > 1e-3 and distance(ones[0].A, ones[1].A) > 1e-4
    with pytest.raises(ValueError, match="M was not looked at"):
        A.components()
    with pytest.raises(ValueError, match=r"no layer of A is among those asked for; there is down.0.0.cross"):
        look(model, inversion, layers=("up.9",), quantities=("A",))
    with pytest.raises(ValueError, match="no step 3 among 3"):
        look(model, inversion, at=(3,))
    with pytest.raises(ValueError, match="want at least 2 places"):
        look(model, inversion, resolution=1)
    with pytest.raises(ValueError, match="no map 'phi'"):
        look(model, inversion, quantities=("phi",))


def test_memory_does_not_grow_with_steps(model):
    """Bytes of all tensors that live beside the inversion, after its last step."""

    def grown(steps):
        inversion = synthesize(model, SOURCE, 0, steps, size=(64, 64))
        most, before = [], living()
        look(model, inversion, at=(steps - 1,), on_step=lambda seen: most.append(living() - before))
        return most[0]

    assert grown(5) == grown(20) > 0


def living():
    gc.collect()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if is_tensor(t)}
    return sum(storages.values())


def is_tensor(thing):
    return issubclass(type(thing), torch.Tensor) and thing.device.type != "meta"


def test_leading_components_are_those_of_the_complete_decomposition(model, inversion):
    seen = look(model, inversion, quantities=("M",))
    centred = (seen.M - seen.M.mean(dim=1, keepdim=True)).double()
    _, values, vectors = torch.linalg.svd(centred)
    found, own = seen.components(4)
    assert distance(own, values[:4].float()) < 1e-6 and found.shape == (4, 8, 16)
    assert ((found.flatten(1).double() @ vectors[:4].T).abs() - torch.eye(4)).abs().max() < 1e-4
    assert (found.flatten(1).gather(1, found.flatten(1).abs().argmax(dim=1, keepdim=True)) > 0).all()
    shares = component_shares(own, seen)
    assert shares == pytest.approx((values[:4] ** 2 / values.square().sum()).tolist(), abs=1e-3)
    assert leading(centred, 4)[1].equal(leading(centred, 4)[1])
    with pytest.raises(ValueError, match=r"200 components are asked for; want 1..128"):
        seen.components(200)


def test_words_and_their_columns():
    tokenizer = Tokenizer()
    ids = tokenizer("a photo of a scarfed caracal, on grass")[0].tolist()
    found = word_columns(tokenizer, "a photo of a scarfed caracal, on grass")
    assert [word for word, _ in found] == ["a", "photo", "of", "a", "scarfed", "caracal", ",", "on", "grass"]
    assert [i for _, own in found for i in own] == list(range(1, ids.index(49407)))
    assert max(len(own) for _, own in found) > 1
    added = Tokenizer(added={"<new1>": (49406, 49407)})
    assert word_columns(added, "a <new1> cat") == [("a", (1,)), ("<new1>", (2, 3)), ("cat", (4,))]
    assert word_columns(tokenizer, "cat " * 100)[-1] == ("cat", (75,))


def test_pictures_of_maps():
    ramp = torch.arange(12.0).reshape(3, 4)
    assert stretched(ramp).min() == 0 and stretched(ramp).max() == 1 and stretched(torch.ones(2, 2)).max() == 0
    assert grey(ramp, (40, 30)).size == (40, 30) and in_colours(ramp.expand(3, 3, 4), (8, 6)).mode == "RGB"
    flat = Image.new("RGB", (40, 30), (100, 100, 100))
    laid = overlay(flat, ramp)
    brightness = [sum(laid.getpixel((x, y))) for x, y in ((1, 1), (20, 15), (38, 28))]
    assert brightness == sorted(brightness) and brightness[0] + 200 < brightness[2]


def test_the_command_writes_grids_and_numbers(tiny, pictures, tmp_path, capsys):
    line = ["attention", pictures / "source.png", "--prompt", PROMPT, "--steps", "2", "--size", "64", *tiny]
    out = tmp_path / "out"
    assert main([*map(str, line), "--at", "1,2", "--components", "3", "--out", str(out)]) == 0
    assert files(out) == ["A.png", "M.png", "attention.json"]
    record = json.loads((out / "attention.json").read_text())
    assert [row["of"] for row in record["rows"]] == ["2 steps", "step 1", "step 2"]
    assert [word["word"] for word in record["rows"][0]["A"]] == PROMPT.split()
    assert len(record["rows"][1]["M"]["share of each component"]) == 3
    with Image.open(out / "M.png") as M, Image.open(out / "A.png") as A:
        assert M.width > 5 * 160 and A.width > 8 * 160 and M.height > 3 * 160
    capsys.readouterr()
    assert "is there already; --overwrite replaces it" in refused(capsys, *line, "--out", out)
    assert "--at 3: there are 2 steps; want 1..2" in refused(capsys, *line, "--at", "3", "--out", tmp_path / "more")
    assert "is no place of layers" in refused(capsys, *line, "--layers", "left", "--out", tmp_path / "more")
    assert "say with --prompt" in refused(capsys, "attention", *tiny, "--out", tmp_path / "more")
    assert not (tmp_path / "more").exists()
