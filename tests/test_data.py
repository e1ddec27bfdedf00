"""train.data: which pictures are read, what is drawn from them, and that a stream can be taken up again."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_model

from models.images import fit, to_tensor
from train.data import CentreCrops, RandomCrops, Stream, mirrored, read_pictures

SIZE = 64
ORIENTATION = 0x0112  # the EXIF tag; 6 means: turn a quarter clockwise to see it upright


def picture(seed: int = 0, width: int = 96, height: int = 80) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def turned(path, width=40, height=20):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture(0, width, height).save(path, exif=exif)
    return path


@pytest.fixture(scope="module")
def model(device):
    model = tiny_model()
    model.vae.to(device), model.unet.to(device)
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_folder_is_read_in_the_order_of_names_without_hidden_files(tmp_path):
    for i, name in enumerate(["b.png", "a.png", "c.png"]):
        picture(0, 8 * (i + 1), 8).save(tmp_path / name)
    (tmp_path / ".DS_Store").write_bytes(b"not a picture")
    (tmp_path / "class").mkdir()
    assert [p.size[0] for p in read_pictures(tmp_path)] == [16, 8, 24]


def test_files_and_pictures_may_be_mixed_and_are_turned_upright(tmp_path):
    path = turned(tmp_path / "turned.jpg")
    pictures = read_pictures([path, Image.open(path), picture().convert("L")])
    assert [p.size for p in pictures] == [(20, 40), (20, 40), (96, 80)]
    assert {p.mode for p in pictures} == {"RGB"}


def test_transparency_of_a_picture_lies_over_white():
    assert read_pictures(Image.new("RGBA", (8, 8), (9, 9, 9, 0)))[0].getpixel((0, 0)) == (255, 255, 255)


def test_what_is_no_picture_is_named(tmp_path):
    with pytest.raises(ValueError, match="empty folder"):
        read_pictures(tmp_path)
    with pytest.raises(ValueError, match="no reference"):
        read_pictures([])
    with pytest.raises(ValueError, match="nowhere"):
        read_pictures(tmp_path / "nowhere")
    picture().save(tmp_path / "whole.png")
    (tmp_path / "notes.txt").write_text("a cat")
    with pytest.raises(ValueError, match=r"notes\.txt is not a picture"):
        read_pictures(tmp_path)


def test_a_truncated_picture_is_refused_also_when_opened_by_the_caller(tmp_path):
    picture().save(tmp_path / "whole.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_pictures([cut])
    with Image.open(cut) as opened, pytest.raises(ValueError, match="cannot be read"):
        read_pictures([opened])


def test_mirrored_pictures_follow_the_others():
    one = picture()
    both = mirrored([one])
    assert both[0] is one
    assert torch.equal(to_tensor(both[1]), to_tensor(one).flip(-1))


@pytest.mark.parametrize("sample", [True, False])
def test_a_centre_crop_is_the_models_own_encoding(model, sample):
    examples = CentreCrops(model, [picture(0), picture(1)], SIZE, sample)
    image = to_tensor(fit(picture(1), (SIZE, SIZE)))[None]
    with torch.no_grad():
        wanted = model.encode_image(image, generator() if sample else None)[0].cpu()
    # batches of one and two pictures may round differently
    torch.testing.assert_close(examples.draw(1, generator()).x0, wanted, rtol=1e-4, atol=1e-4)


def test_a_centre_crop_is_encoded_once(model):
    calls = []
    handle = model.vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    examples = CentreCrops(model, [picture(0), picture(1)], SIZE)
    first, second = (examples.draw(0, g).x0 for g in (generator(1), generator(2)))
    handle.remove()
    assert len(calls) == 1
    assert not torch.equal(first, second)


@pytest.mark.parametrize("crops", [CentreCrops, RandomCrops])
def test_the_resampling_is_the_one_asked_for(model, crops):
    """A square picture twice as large: every crop is all of it, so only the filter decides."""
    for name, kernel in {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}.items():
        wanted = picture(3, 2 * SIZE, 2 * SIZE).resize((SIZE, SIZE), kernel)
        found = crops(model, [picture(3, 2 * SIZE, 2 * SIZE)], SIZE, False, name)
        with torch.no_grad():
            latents = model.encode_image(to_tensor(wanted)[None])[0].cpu()
        assert torch.equal(found.draw(0, generator()).x0, latents), name


@pytest.mark.parametrize("size", [(96, 80), (70, 200), (SIZE, SIZE), (20, 33)])
def test_a_random_crop_is_a_square_of_the_picture(model, size):
    examples = RandomCrops(model, [picture(0, *size)], SIZE, sample=False)
    assert min(examples.images[0].shape[1:]) == SIZE
    crops = [examples.draw(0, generator(seed)).x0 for seed in range(6)]
    assert crops[0].shape == (4, SIZE // 8, SIZE // 8)
    assert crops[0].dtype == torch.float32 and crops[0].device.type == "cpu"
    assert torch.equal(crops[0], examples.draw(0, generator(0)).x0)
    assert all(torch.equal(crops[0], crop) for crop in crops) == (size[0] == size[1])


def test_random_crops_reach_every_offset(model):
    examples = RandomCrops(model, [picture(0, SIZE + 2, SIZE)], SIZE, sample=False)
    g = generator()
    found = {examples.draw(0, g).x0.numpy().tobytes() for _ in range(30)}
    assert len(found) == 3


def stream(model, count: int = 3, seed: int = 5) -> Stream:
    return Stream(CentreCrops(model, [picture(i) for i in range(count)], SIZE, sample=False), 1000, seed)


def test_every_picture_comes_once_a_round(model):
    s = stream(model)
    means = [s.examples.draw(i, generator()).x0 for i in range(3)]
    rows = s.next_rows(9).x0
    order = [next(i for i in range(3) if torch.equal(means[i], row)) for row in rows]
    assert [sorted(order[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_rows_are_noise_and_timesteps_of_the_whole_range(model):
    rows = stream(model).next_rows(400)
    assert rows.eps.shape == rows.x0.shape == (400, 4, 8, 8) and rows.t.shape == (400,)
    assert rows.t.dtype == torch.long and 0 <= rows.t.min() < 20 and 980 < rows.t.max() < 1000
    assert abs(rows.eps.mean()) < 0.02 and abs(rows.eps.std() - 1) < 0.02  # 102400 numbers: 6 standard errors


def test_batching_changes_no_row(model):
    together, apart = stream(model).next_rows(4), stream(model)
    for whole, *parts in zip(together, *(apart.next_rows(1) for _ in range(4)), strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_a_stream_goes_on_bit_for_bit(model):
    first = stream(model)
    first.next_rows(4)
    state = first.state()
    wanted = first.next_rows(5)
    second = stream(model, seed=99)
    second.restore(state)
    assert all(torch.equal(a, b) for a, b in zip(wanted, second.next_rows(5), strict=True))


def test_the_digest_tells_pictures_apart(model):
    one, same, other = (CentreCrops(model, [picture(i)], SIZE).digest() for i in (0, 0, 1))
    assert one == same != other


def spotted(mask: Image.Image, scale: int = 1) -> Image.Image:
    """A picture that shows its own mask: red where that is white."""
    return Image.merge("RGB", [mask, *[Image.new("L", mask.size)] * 2]).resize([side * scale for side in mask.size])


def blot(width: int = 96, height: int = 80) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, (50, 20, 90, 70))
    return mask


class Seen:
    """An autoencoder's stand-in: the latents are the picture's red, every eighth pixel."""

    def __init__(self, model):
        self.model = model

    def patch(self, monkeypatch):
        monkeypatch.setattr("train.data.encode_moments", lambda _, images: images[:, :, ::8, ::8])
        monkeypatch.setattr(type(self.model.vae), "latents", lambda _vae, moments, _generator: moments)
        return self.model


@pytest.mark.parametrize("crops", [CentreCrops, RandomCrops])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("size", [(96, 80), (64, 128), (64, 64)])
def test_masks_are_cut_turned_and_shrunk_as_their_pictures(model, crops, mirror, size, monkeypatch):
    """A picture that is its own mask: wherever its square is cut, mask and picture show the same."""
    masks = [blot(*size)]
    pictures = [spotted(mask) for mask in masks]
    if mirror:
        pictures, masks = mirrored(pictures), mirrored(masks)
    examples = crops(Seen(model).patch(monkeypatch), pictures, SIZE, False, "bilinear", masks)
    seen = set()
    for index in range(len(pictures)):
        for seed in range(4):
            example = examples.draw(index, generator(seed))
            assert example.subject.shape == (1, SIZE // 8, SIZE // 8)
            red = (example.x0[:1] + 1) / 2
            assert torch.allclose(example.subject, red, atol=0.01)  # 8 bits
            seen.add(example.subject.numpy().tobytes())
    moves = crops is RandomCrops and size[0] != size[1]
    assert len(seen) > 1 + mirror if moves else len(seen) == 1 + mirror


def test_without_masks_the_subject_is_everywhere(model):
    pictures = [picture()]
    for crops in (CentreCrops, RandomCrops):
        rows = Stream(crops(model, pictures, SIZE), 1000, 0).next_rows(2)
        assert rows.subject.shape == (2, 1, SIZE // 8, SIZE // 8) and rows.subject.all()


@pytest.mark.parametrize("crops", [CentreCrops, RandomCrops])
def test_the_digest_tells_masks_apart_too(model, crops):
    pictures = [picture()]
    other = blot()
    other.putpixel((60, 40), 0)
    digests = {crops(model, pictures, SIZE, masks=masks).digest() for masks in (None, [blot()], [other])}
    assert len(digests) == 3


def test_masks_beside_pictures_are_not_read_as_pictures(tmp_path):
    for name in ("a.png", "a.mask.png", "b.jpg", "b.mask.jpg"):
        picture(0, 8, 8).save(tmp_path / name)
    assert len(read_pictures(tmp_path)) == 2
