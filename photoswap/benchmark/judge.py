"""The scores of a result: background against the source, subject against the right answer, and who the subject is.

Every score is taken twice: against the exact pictures, and against what the autoencoder makes of them, where the
autoencoder's own error, which no method can help, is no part of it. docs/benchmark.md has the formulas.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from photoswap.benchmark.lpips import LPIPS, find_lpips, lpips_distance
from photoswap.benchmark.scores import inside, outside, overlap, palette_match, psnr, ssim
from photoswap.benchmark.shapes import seen_shape, true_shape
from photoswap.benchmark.tasks import Task
from train.miniature.data import SIZE
from train.recogniser import JOINTS, RECOGNISER_FILE, Recogniser, Seen, load_recogniser, recognise_subjects
from train.recogniser.network import TILT
from train.world import Look, Pose, Scene, render
from weights.checksum import digest_of
from weights.records import shown

GROUND_MARGIN = 5  # pixels of 128 around the subjects that belong neither to them nor to the background
MOST_PSNR = 60.0  # dB, which equal pictures are given: less error than rounding to eight bits makes


class ScoreKind(NamedTuple):
    """What a score is called, how it is written, and whether more of it is better."""

    label: str
    form: str
    more: bool


SCORE_KINDS: Mapping[str, ScoreKind] = {
    "background_psnr": ScoreKind("background PSNR, dB", ".1f", True),
    "background_ssim": ScoreKind("background SSIM", ".3f", True),
    "background_lpips": ScoreKind("background LPIPS", ".3f", False),
    "front_psnr": ScoreKind("front PSNR, dB", ".1f", True),
    "subject_psnr": ScoreKind("subject PSNR, dB", ".1f", True),
    "subject_ssim": ScoreKind("subject SSIM", ".3f", True),
    "subject_palette": ScoreKind("subject's colours", ".2f", True),
    "shape_iou": ScoreKind("shape IoU", ".2f", True),
    "identity": ScoreKind("identity", ".2f", True),
    "pose_error": ScoreKind("pose error", ".2f", False),
    "overall_psnr": ScoreKind("overall PSNR, dB", ".1f", True),
}


@dataclass(frozen=True, eq=False)
class Carried:
    """A task's source and truth as the autoencoder brings them back."""

    source: Image.Image
    truth: Image.Image


@dataclass(frozen=True, eq=False)
class Judge:
    """What scores are taken with. recogniser, lpips: None where their weights are not there; their scores are not."""

    recogniser: Recogniser | None = None
    lpips: LPIPS | None = None

    @cached_property
    def known_by(self) -> dict[str, str | None]:
        """What the scores depend on, to tell whether those of a file are still true."""
        return {
            "recogniser": digest_of(self.recogniser.state_dict()) if self.recogniser else None,
            "lpips": digest_of(self.lpips.state_dict()) if self.lpips else None,
        }

    def scores(self, picture: Image.Image, task: Task, seen: Carried | None = None) -> dict[str, float]:
        """Every score of a result that can be taken. seen: what it is compared with, None for the exact pictures.

        Raises ValueError for a picture of another size than the task's.
        """
        source, truth = (seen.source, seen.truth) if seen else (task.source.image, task.truth.image)
        ground, bodies = background(task), [inside(mask) for mask in task.truth.masks]
        found = {
            "background_psnr": capped_psnr(picture, source, ground),
            "background_ssim": ssim(picture, source, ground),
        }
        if self.lpips:
            found["background_lpips"] = lpips_distance(
                self.lpips, blackened(picture, ground), blackened(source, ground)
            )
        if (front := in_front(task)).any():
            found["front_psnr"] = capped_psnr(picture, source, front)
        for name, compare in (
            ("subject_psnr", capped_psnr),
            ("subject_ssim", ssim),
            ("subject_palette", palette_match),
        ):
            found[name] = float(np.mean([compare(picture, truth, body) for body in bodies]))
        wanted = seen_shape(seen.truth, task) if seen else true_shape(task)
        found["shape_iou"] = overlap(seen_shape(picture, task), wanted)
        found |= self._recognised(picture, task, seen)
        return found | {"overall_psnr": capped_psnr(picture, truth)}

    def recognises(self, pictures: list[Image.Image], look: Look) -> float:
        """The share of pictures, of one subject each, that show the look's species, colour and pattern.

        Raises ValueError without a recogniser.
        """
        if self.recogniser is None:
            raise ValueError("there is no recogniser to ask: python -m train.recogniser.learn makes one")
        wanted = look.species, look.colour, look.pattern
        seen = recognise_subjects(self.recogniser, pictures)
        return float(np.mean([(one["species"], one["colour"], one["pattern"]) == wanted for one in seen]))

    def _recognised(self, picture: Image.Image, task: Task, seen: Carried | None) -> dict[str, float]:
        """Who the subjects are and how they stand, each in the square around its true mask."""
        if self.recogniser is None:
            return {}
        masks = list(task.truth.masks)
        found = recognise_subjects(self.recogniser, [picture] * len(masks), masks)
        known = recognise_subjects(self.recogniser, [seen.truth] * len(masks), masks) if seen else None
        identity, pose = [], []
        for i, (one, subject) in enumerate(zip(found, task.true_scene.subjects, strict=True)):
            asked = attributes_of(subject.look)
            answers = {name: known[i][name] for name in asked} if known else asked
            identity.append(np.mean([one[name] == answers[name] for name in asked]))
            joints = known[i].joints if known else joints_of(subject.pose)
            pose.append(_distance(one, joints))
        return {"identity": float(np.mean(identity)), "pose_error": float(np.mean(pose))}


def find_judge(weights: Path | None = None) -> tuple[Judge, list[str]]:
    """The judge of what is installed, and a sentence for each thing that is lacking.

    weights: the recogniser's; None for those that are shipped, which may be missing. Raises ValueError for a file that
    was named and is not there, or holds something else.
    """
    said, recogniser = [], None
    if weights or RECOGNISER_FILE.is_file():
        recogniser = _recogniser(weights or RECOGNISER_FILE)
    else:
        said.append(f"identity and pose are left out: there is no {RECOGNISER_FILE.name}")
    lpips = find_lpips()
    if isinstance(lpips, str):
        said.append(lpips)
    return Judge(recogniser, None if isinstance(lpips, str) else lpips), said


def _recogniser(file: Path) -> Recogniser:
    try:
        return load_recogniser(file)
    except (SafetensorError, RuntimeError, OSError):
        raise ValueError(
            f"{shown(file)} holds no weights of a recogniser; python -m train.recogniser.learn makes them"
        ) from None


def background(task: Task) -> NDArray[np.bool_]:
    """Where neither subject is, source's or truth's, nor anything near, (h w)."""
    return outside([*task.source.masks, *task.truth.masks], round(GROUND_MARGIN * task.source.image.width / SIZE))


def in_front(task: Task) -> NDArray[np.bool_]:
    """Where something hides a subject of the truth, (h w); nowhere in scenes with nothing in front."""
    if task.scene.front is None:
        return np.zeros(task.source.image.size[::-1], dtype=bool)
    return np.asarray(_bare(replace(task.true_scene, front=None), task.source.image.width) & ~true_shape(task))


@lru_cache(maxsize=8)
def _bare(scene: Scene, size: int) -> NDArray[np.bool_]:
    """Where a scene's subjects are, with nothing in front of them."""
    return np.asarray(np.logical_or.reduce([inside(mask) for mask in render(scene, size).masks]))


def attributes_of(look: Look) -> dict[str, str]:
    """The right answers of the recogniser that a picture of this look can show."""
    found = {"species": look.species, "colour": look.colour, "pattern": look.pattern}
    found |= {} if look.pattern == "plain" else {"second": look.second}
    found["accessory"] = look.accessory or "none"
    return found | ({"accessory_colour": look.accessory_colour} if look.accessory else {})


def joints_of(pose: Pose) -> dict[str, float]:
    """A pose by the recogniser's joints."""
    return {name: float(getattr(pose, name)) for name in JOINTS}


def blackened(picture: Image.Image, region: NDArray[np.bool_]) -> Image.Image:
    """The picture, black outside a region (h w)."""
    return Image.fromarray(np.asarray(picture.convert("RGB")) * region[..., None].astype(np.uint8))


def capped_psnr(picture: Image.Image, truth: Image.Image, region: NDArray[np.bool_] | None = None) -> float:
    """The PSNR in dB, at most MOST_PSNR, so that means can be taken where pictures are equal."""
    return min(psnr(picture, truth, region), MOST_PSNR)


def _distance(seen: Seen, joints: Mapping[str, float]) -> float:
    """The root mean square of the joints' differences, tilt as a multiple of its range."""
    units = {"tilt": TILT}
    return math.sqrt(np.mean([((seen.joints[name] - joints[name]) / units.get(name, 1.0)) ** 2 for name in JOINTS]))
