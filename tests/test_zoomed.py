"""train.zoomed: pictures smaller on grey or larger and cut, with the words for it and the places that count."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_model

import train.zoomed
from train.templates import ZOOMS
from train.zoomed import Zoomed

SIZE = 128


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def shown(model, monkeypatch):
    """What was encoded, beside each example: pictures are one colour, so that grey and they can be told apart."""
    seen = []
    encode = train.zoomed.encode_moments
    monkeypatch.setattr(train.zoomed, "encode_moments", lambda m, images: seen.append(images[0]) or encode(m, images))
    zoomed = Zoomed(model, [Image.new("RGB", (150, 140), "white")], SIZE)
    generator = torch.Generator().manual_seed(0)
    drawn = [(zoomed.draw(0, generator), seen[-1]) for _ in range(300)]
    return [(one.x0, one.mask, one.text, image) for one, image in drawn]


def test_the_prompt_says_how_large_it_is(shown):
    counts = np.bincount([text for _, _, text, _ in shown], minlength=len(ZOOMS))
    assert counts.min() > 0
    for x0, mask, text, image in shown:
        side = int((image[0] == 1).any(0).sum())
        assert x0.shape == (4, 16, 16) and mask.shape == (1, 16, 16)
        if ZOOMS[text] in ("zoomed in ", "close up "):
            assert side == SIZE and mask.all()
        elif ZOOMS[text]:
            assert SIZE // 3 <= side < 0.6 * SIZE
        else:
            assert 0.6 * SIZE <= side <= SIZE
    assert 0.25 < (counts[3] + counts[4]) / 300 < 0.42  # a third


def test_the_loss_counts_well_inside_of_the_picture_alone(shown):
    """One cell less at either end than the cells it covers, counted pixel by pixel."""
    for _, mask, text, image in shown:
        white = (image == 1).all(0)
        assert ((image == 0).all(0) | white).all() and mask.sum() > 0
        if text < 3:
            (top, left), (bottom, right) = (
                edge.tolist() for edge in (white.nonzero().amin(0), white.nonzero().amax(0))
            )
            wanted = torch.zeros(16, 16)
            for row in range(16):
                for column in range(16):
                    rows, columns = (
                        (top // 8 < row < (bottom + 1) // 8 - 1),
                        (left // 8 < column < (right + 1) // 8 - 1),
                    )
                    wanted[row, column] = float(rows and columns)
            assert torch.equal(mask[0], wanted)


def test_some_place_counts_even_of_the_smallest(model):
    zoomed = Zoomed(model, [Image.new("RGB", (64, 64), "white")], 64)
    generator = torch.Generator().manual_seed(1)
    assert all(zoomed.draw(0, generator).mask.sum() > 0 for _ in range(100))


def test_it_takes_the_middle_and_tells_pictures_apart(model):
    wide = Image.new("RGB", (200, 100), "black")
    wide.paste((255, 255, 255), (50, 0, 150, 100))
    zoomed = Zoomed(model, [wide], SIZE)
    assert zoomed.pictures[0].size == (100, 100) and zoomed.pictures[0].getextrema() == ((255, 255),) * 3
    assert zoomed.digest() != Zoomed(model, [Image.new("RGB", (100, 100))], SIZE).digest()
