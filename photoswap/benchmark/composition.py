"""Paint by Example's three measures (arXiv:2211.13227, section 4.1), over any features of pictures.

The features are a parameter (`photoswap/benchmark/features.py`): the paper's are CLIP ViT-B/32's.

    FID     how far the painted pictures' features are from real ones': the Frechet distance of two Gaussians
    QS      how likely each is under a mixture of 20 Gaussians fitted to real ones, on a scale to 100
    CLIP    how alike the painted region and the reference are: the cosine of their features, times 100
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models.inpainting import white_box
from photoswap.benchmark.features import CLIP_SIDE, Array, Features
from weights.atomic import atomic

GAUSSIANS = 20  # of the published mixture
LIKELIEST = 300.0  # the log-likelihood that counts as 100
FLOOR = 1e-6  # added to a component's variances


def _check_features(*several: Array) -> None:
    for features in several:
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != several[0].shape[1]:
            raise ValueError(
                f"features are {' and '.join(str(x.shape) for x in several)}; want two rows or more, as wide"
            )


def frechet_distance(a: Array, b: Array) -> float:
    """The squared Frechet distance of the Gaussians fitted to two sets of features, (n d) and (m d).

    |mean_a - mean_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^1/2), with the covariances' unbiased estimates. Raises
    ValueError for fewer than two rows, and for features of other widths.
    """
    _check_features(a, b)
    means, spreads = [x.mean(axis=0) for x in (a, b)], [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    root = _root(spreads[0])  # the root of a product of two has the trace of this symmetric one's
    middle = np.linalg.eigvalsh(root @ spreads[1] @ root)
    crossed = np.sqrt(np.clip(middle, 0, None)).sum()
    apart = float(np.square(means[0] - means[1]).sum())
    return apart + float(np.trace(spreads[0]) + np.trace(spreads[1])) - 2 * float(crossed)


def _root(matrix: Array) -> Array:
    """The symmetric root of a symmetric matrix that is nowhere negative."""
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


@dataclass(frozen=True, eq=False)
class Mixture:
    """Gaussians with weights (k,), means (k d) and covariances (k d d)."""

    weights: Array
    means: Array
    spreads: Array

    @classmethod
    def fit(cls, features: Array, components: int = GAUSSIANS, seed: int = 0, rounds: int = 100) -> "Mixture":
        """Expectation maximisation, begun by k-means, until the mean log-likelihood moves by less than 1e-3.

        Raises ValueError for fewer features than components.
        """
        if len(features) < max(2, components):
            raise ValueError(f"{len(features)} features for {components} components; want at least as many")
        shares = np.eye(components)[_clusters(features, components, np.random.default_rng(seed))]
        before = -np.inf
        for _ in range(rounds):
            mixture = cls._of(features, shares)
            joint = mixture._joint(features)
            likelihood = _log_sum(joint)
            shares = np.exp(joint - likelihood[:, None])
            if abs(likelihood.mean() - before) < 1e-3:
                break
            before = likelihood.mean()
        return cls._of(features, shares)

    @classmethod
    def _of(cls, features: Array, shares: Array) -> "Mixture":
        """The likeliest mixture where each row belongs to each component by its share, (n k)."""
        counts = shares.sum(axis=0) + 10 * np.finfo(np.float64).eps
        means = shares.T @ features / counts[:, None]
        spreads = np.empty((len(counts), features.shape[1], features.shape[1]))
        for i, mean in enumerate(means):
            off = features - mean
            spreads[i] = (shares[:, i, None] * off).T @ off / counts[i] + FLOOR * np.eye(features.shape[1])
        return cls(counts / counts.sum(), means, spreads)

    def log_likelihood(self, features: Array) -> Array:
        """The logarithm of the density at every row, (n,)."""
        return _log_sum(self._joint(features))

    def _joint(self, features: Array) -> Array:
        """Of every row with every component, (n k)."""
        found = np.empty((len(features), len(self.weights)))
        for i, (weight, mean, spread) in enumerate(zip(self.weights, self.means, self.spreads, strict=True)):
            lower = np.linalg.cholesky(spread)
            off = np.linalg.solve(lower, (features - mean).T)
            volume = 2 * np.log(np.diag(lower)).sum() + features.shape[1] * np.log(2 * np.pi)
            found[:, i] = np.log(weight) - 0.5 * (np.square(off).sum(axis=0) + volume)
        return found

    def save(self, path: str | Path) -> None:
        """Write it as safetensors."""
        with atomic(path) as place:
            save_file({"weights": self.weights, "means": self.means, "spreads": self.spreads}, place)

    @classmethod
    def load(cls, path: str | Path) -> "Mixture":
        """Raises ValueError for a file that is no mixture."""
        try:
            return cls(**load_file(path))
        except (OSError, TypeError, SafetensorError) as error:
            raise ValueError(f"{path} holds no mixture; fit one on features of real pictures: {error}") from None


def _clusters(features: Array, count: int, rng: np.random.Generator, rounds: int = 30) -> NDArray[np.int64]:
    """Which of `count` clusters each row is in, by k-means from centres far apart (k-means++)."""
    centres = features[[int(rng.integers(len(features)))]]
    while len(centres) < count:
        away = _distances(features, centres).min(axis=1)
        chances = away / away.sum() if away.sum() else np.full(len(features), 1 / len(features))
        centres = np.concatenate([centres, features[[int(rng.choice(len(features), p=chances))]]])
    where: NDArray[np.int64] = np.zeros(len(features), dtype=np.int64)
    for _ in range(rounds):
        where = _distances(features, centres).argmin(axis=1)
        centres = np.stack(
            [features[where == i].mean(axis=0) if (where == i).any() else c for i, c in enumerate(centres)]
        )
    return where


def _distances(features: Array, centres: Array) -> Array:
    """Squared, (n k)."""
    crossed = features @ centres.T
    found = np.square(features).sum(axis=1)[:, None] - 2 * crossed + np.square(centres).sum(axis=1)
    return np.clip(found, 0, None)


def _log_sum(joint: Array) -> Array:
    largest = joint.max(axis=1)
    found: Array = largest + np.log(np.exp(joint - largest[:, None]).sum(axis=1))
    return found


def quality_score(mixture: Mixture, features: Array, likeliest: float = LIKELIEST) -> float:
    """The mean of each picture's log-likelihood, as a share of `likeliest`, cut to [0, 1], times 100; high is good."""
    return float(np.clip(mixture.log_likelihood(features) / likeliest, 0, 1).mean() * 100)


def region_similarity(
    features: Features,
    painted: Sequence[Image.Image],
    masks: Sequence[Image.Image],
    references: Sequence[Image.Image],
) -> float:
    """100 times the mean cosine between the features of each painted region and of its reference.

    The region is the mask's box without its last row and column, as the published script cuts it; both are squeezed to
    a square by bilinear resizing. Raises ValueError for a mask that is black or one pixel thin.
    """
    regions = []
    for picture, mask in zip(painted, masks, strict=True):
        box = white_box(mask)
        if box is None or box[2] - box[0] < 2 or box[3] - box[1] < 2:
            raise ValueError("a mask covers nothing, or a line; want a region to compare")
        regions.append(picture.convert("RGB").crop((box[0], box[1], box[2] - 1, box[3] - 1)))
    ours, theirs = (features([_squeezed(one) for one in pictures]) for pictures in (regions, references))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(100 * ((ours * theirs).sum(axis=1) / norms).mean())


def _squeezed(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.BILINEAR)
