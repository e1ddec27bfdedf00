"""photoswap.benchmark.composition: Paint by Example's three measures."""

import math

import numpy as np
import pytest
import torch
from command_line import paint
from PIL import Image

from photoswap.benchmark.composition import Mixture, frechet_distance, quality_score, region_similarity
from photoswap.benchmark.features import ClipFeatures, RecogniserFeatures, features_of, real_picture, seen_by_clip
from train.recogniser.network import Recogniser, prepare


def drawn(seed, count, width, mean=0.0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, width)) @ generator.standard_normal((width, width)) + mean


def test_the_distance_of_a_set_from_itself_is_nothing():
    features = drawn(0, 60, 5)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(features, features + 2) == pytest.approx(5 * 4)


def test_the_distance_of_two_numbers_is_known():
    """Of one feature: difference of means squared, and of deviations squared."""
    a, b = drawn(1, 50, 1), drawn(2, 70, 1, mean=3)
    wanted = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(wanted)


def test_the_distance_is_that_of_the_product_s_root():
    a, b = drawn(3, 80, 6), drawn(4, 90, 6, mean=1)
    spreads = [torch.from_numpy(np.cov(x, rowvar=False)) for x in (a, b)]
    crossed = torch.linalg.eigvals(spreads[0] @ spreads[1]).sqrt().real.sum()
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + float(spreads[0].trace() + spreads[1].trace() - 2 * crossed)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize(("a", "b"), [((1, 3), (5, 3)), ((5, 3), (5, 2)), ((5,), (5, 3))])
def test_features_that_cannot_be_compared_are_refused(a, b):
    with pytest.raises(ValueError, match="two rows or more"):
        frechet_distance(np.zeros(a), np.zeros(b))


def in_torch(mixture):
    parts = torch.distributions.MultivariateNormal(torch.from_numpy(mixture.means), torch.from_numpy(mixture.spreads))
    shares = torch.distributions.Categorical(torch.from_numpy(mixture.weights))
    return torch.distributions.MixtureSameFamily(shares, parts)


def test_the_likelihood_is_the_mixture_s_density():
    mixture = Mixture.fit(np.concatenate([drawn(5, 60, 3), drawn(6, 60, 3, mean=9)]), 2)
    points = drawn(7, 20, 3, mean=4)
    wanted = in_torch(mixture).log_prob(torch.from_numpy(points)).numpy()
    assert np.abs(mixture.log_likelihood(points) - wanted).max() < 1e-8


def test_a_mixture_finds_its_parts():
    generator = np.random.default_rng(8)
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    points = np.concatenate(
        [c + generator.standard_normal((200, 2)) * s for c, s in zip(centres, (1, 2, 0.5), strict=True)]
    )
    mixture = Mixture.fit(points, 3)
    order = [int(np.square(mixture.means - c).sum(axis=1).argmin()) for c in centres]
    assert sorted(order) == [0, 1, 2] and np.abs(mixture.means[order] - centres).max() < 0.4
    assert mixture.weights == pytest.approx(1 / 3, abs=0.02)
    spreads = [np.sqrt(np.trace(mixture.spreads[i]) / 2) for i in order]
    assert spreads == pytest.approx([1, 2, 0.5], rel=0.15)


def test_a_mixture_of_one_is_the_gaussian():
    points = drawn(9, 100, 4)
    mixture = Mixture.fit(points, 1)
    assert mixture.means[0] == pytest.approx(points.mean(axis=0))
    assert np.abs(mixture.spreads[0] - np.cov(points, rowvar=False, ddof=0)).max() < 2e-6


def test_a_mixture_is_read_back(tmp_path):
    mixture = Mixture.fit(drawn(10, 50, 3), 2)
    mixture.save(tmp_path / "mixture.safetensors")
    again = Mixture.load(tmp_path / "mixture.safetensors")
    points = drawn(11, 5, 3)
    assert np.array_equal(mixture.log_likelihood(points), again.log_likelihood(points))
    (tmp_path / "no.safetensors").write_bytes(b"no mixture")
    with pytest.raises(ValueError, match="holds no mixture"):
        Mixture.load(tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match="at least as many"):
        Mixture.fit(points, 20)


def test_quality_is_a_likelihood_cut_to_a_scale():
    mixture = Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    likely = -math.log(2 * math.pi)  # at the mean
    points = np.array([[0.0, 0.0], [50.0, 0.0]])
    assert quality_score(mixture, points, likeliest=2 * likely) == pytest.approx((0.5 + 1) / 2 * 100)
    assert quality_score(mixture, points) == 0  # likelihoods below zero count as none


def corner(pictures):
    """Features that know where a colour is: the squares' corners and middle."""
    return np.stack(
        [np.asarray(p.resize((4, 4), Image.Resampling.BILINEAR), dtype=np.float64).ravel() for p in pictures]
    )


def test_a_region_without_its_last_row_and_column_is_compared():
    picture = Image.new("RGB", (40, 40), "white")
    subject = paint((11, 9), 3)
    picture.paste(subject, (10, 20))
    mask = Image.new("L", (40, 40))
    mask.paste(255, (10, 20, 22, 30))  # one more each way, which is not looked at
    assert region_similarity(corner, [picture], [mask], [subject]) == pytest.approx(100)
    mask.paste(255, (10, 20, 30, 40))
    assert region_similarity(corner, [picture], [mask], [subject]) < 99
    with pytest.raises(ValueError, match="want a region"):
        region_similarity(corner, [picture], [Image.new("L", (40, 40))], [subject])


def test_real_pictures_are_their_middle_squares():
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("red", (100, 0, 200, 100))
    found = real_picture(picture, 50)
    assert found.size == (50, 50) and found.getpixel((25, 25)) == (255, 0, 0)


def test_features_are_gathered_in_order():
    pictures = [Image.new("RGB", (20, 20), (i, i, i)) for i in range(120)]
    found = features_of(corner, pictures, lambda picture: picture)
    assert len(found) == 120 and np.array_equal(found[:, 0], np.arange(120))
    with pytest.raises(ValueError, match="no pictures"):
        features_of(corner, [])


def test_the_recogniser_s_features_are_its_own():
    torch.manual_seed(0)
    recogniser, picture = Recogniser().eval(), paint((96, 96), 0)
    found = RecogniserFeatures(recogniser)([picture, paint((96, 96), 1)])
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        wanted = recogniser.blocks(prepare(pixels))[0].mean((1, 2))
    assert found.shape == (2, 96) and np.abs(found[0] - wanted.numpy()).max() < 1e-5


@pytest.mark.slow
def test_clip_s_features_are_the_package_s(tmp_path):
    """With random weights, and its own preparation of a picture: the same to 1e-5."""
    import open_clip

    torch.manual_seed(0)
    model, _, preparation = open_clip.create_model_and_transforms("ViT-B-32-quickgelu")
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    picture = paint((300, 300), 0)
    with torch.no_grad():
        wanted = model.eval().encode_image(preparation(picture)[None])[0].double().numpy()
    assert (seen_by_clip(picture) - preparation(picture)).abs().max() < 1e-5
    found = ClipFeatures(tmp_path / "clip.pt")([picture])[0]
    assert np.abs(found - wanted).max() < 1e-5


def test_no_weights_are_no_features(tmp_path):
    with pytest.raises(ValueError, match="no such file of CLIP's weights"):
        ClipFeatures(tmp_path / "nowhere.pt")
