"""Pairs and hidden subjects: what is measured of them, and that a swap in true masks keeps all else exactly."""

import math

import numpy as np
import pytest
import torch
from swap_model import swap_model

from photoswap.evaluate_several import ONLY, before, evaluated
from photoswap.methods import Photoswap
from train.miniature.data import STREAMS, mixed_scene_at
from train.world import SMALL, render


def scene_of(kind):
    return mixed_scene_at(SMALL, STREAMS["development"], 0, ONLY[kind])


def test_what_is_before_a_subject_is_where_it_would_be_seen_otherwise():
    scene = scene_of("hidden")
    place = before(scene)
    assert scene.front and 50 < place.sum() < place.size / 4
    assert not (place & (np.array(render(scene).mask) > 127)).any()


@pytest.mark.parametrize(("kind", "subjects"), [("pair", 2), ("hidden", 1)])
def test_swaps_in_true_masks_keep_the_ground_and_the_front_exactly(kind, subjects):
    scene = scene_of(kind)
    outcome = evaluated(swap_model(torch.device("cpu")), scene, Photoswap.scaled(1), true_masks=True)
    source, _, result, truth = (np.array(picture) for picture in outcome.pictures)
    assert outcome.ground == math.inf and outcome.front == (math.inf if scene.front else None)
    masks = [np.array(mask) > 127 for mask in render(scene).masks]
    assert len(masks) == subjects
    for mask in masks:
        assert (result[mask] != source[mask]).any() and (truth[mask] != source[mask]).any()
    assert (result[~np.logical_or.reduce(masks)] == source[~np.logical_or.reduce(masks)]).all()
