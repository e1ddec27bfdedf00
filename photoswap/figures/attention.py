"""What attention sees of a picture: M averaged over layers and steps, its leading components, and each token's A.

Photoswap (arXiv:2305.18286), figures 3 and 4: every layer's M is resized to one grid, averaged over layers and steps,
and its leading singular vectors, laid out as pictures, show what belongs together. As in Prompt-to-Prompt's code the
mean over keys is taken off first, which is the same for every place, and the vectors over keys are shown.

What is kept is a running sum for each size of layer, averaged over heads as it comes; resizing is linear, so it waits
for the end. At most one layer's map is in memory beside the sums: at 512 px its five heads take 0.34 GB in float32,
the sums 0.07 GB, and neither grows with the number of steps or of layers.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor
from tqdm import tqdm

from models.hooks import Hook, Site, reading
from models.stable_diffusion import StableDiffusion
from models.tokenizer import Tokenizer
from photoswap.inversions.file import Inversion

MapName = Literal["M", "A"]
KINDS = {"M": "self", "A": "cross"}
RESOLUTION = 64  # places of the longer side, as in the paper
COMPONENTS = 6
ROUNDS, SPARE = 12, 8  # of the subspace iteration; columns beyond those that are asked for

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class SeenMaps:
    """Attention averaged over heads, layers and steps, on one grid.

    M: (n n) with n = h w of the grid, rows sum to one; None where it was not looked at. A: (77 h w), None likewise; at
    each place the tokens sum to one. grid: (h, w). steps: those that were averaged, from 0, the noisiest.
    """

    M: Tensor | None
    A: Tensor | None
    grid: Grid
    steps: tuple[int, ...]

    def components(self, count: int = COMPONENTS) -> tuple[Tensor, Tensor]:
        """The leading components of M: pictures (count h w), each a unit vector, and the singular values (count,).

        The place of largest absolute value is positive. Raises ValueError where M was not looked at, or for more
        components than places.
        """
        if self.M is None:
            raise ValueError('M was not looked at: ask for it, quantities=("M",)')
        values, vectors = leading(self.M - self.M.mean(dim=1, keepdim=True), count)
        return vectors.reshape(count, *self.grid), values

    def heat(self, columns: Sequence[int]) -> Tensor:
        """How strongly every place looks at some tokens, the mean of their columns of A: (h w), 0 to 1.

        Raises ValueError where A was not looked at.
        """
        if self.A is None:
            raise ValueError('A was not looked at: ask for it, quantities=("A",)')
        return self.A[list(columns)].mean(dim=0)


@torch.no_grad()
def look(
    model: StableDiffusion,
    inversion: Inversion,
    *,
    prompt: str | None = None,
    quantities: Collection[MapName] = ("M", "A"),
    layers: Sequence[str] = (),
    resolution: int | None = None,
    at: Collection[int] = (),
    on_step: Callable[[SeenMaps], None] | None = None,
    progress: bool = False,
) -> SeenMaps:
    """Attention over all steps of an inversion, one row of the network a step: its latents are known.

    prompt: whose words are looked at, by default the inversion's own. quantities: M, A or both. layers: only those
    whose address begins so, "up", "up.1" or "up.1.0"; all where none is given. resolution: places of the grid's longer
    side, by default the paper's 64, or the latents' where those are fewer; layers that have more are shrunk to it. at,
    on_step: told what one step alone shows, for each of these steps, from 0; nothing of it is kept here. progress:
    whether to show a bar. Raises ValueError for an inversion of another model, where no layer of a quantity is left,
    and for steps that there are not.
    """
    inversion.check(model, inversion.steps)
    if wrong := sorted(step for step in at if not 0 <= step < inversion.steps):
        raise ValueError(f"there is no step {wrong[0]} among {inversion.steps}; steps count from 0 here")
    size = (inversion.trajectory.shape[2], inversion.trajectory.shape[3])
    grid = grid_of(size, min(RESOLUTION, max(size)) if resolution is None else resolution)
    every, once = _Sums(), _Sums()
    chosen = {site for name in quantities for site in _chosen(model, name, layers)}
    hooks = model.unet.prepare_hooks({site: _adding(site, once) for site in chosen})
    context = model.unet.prepare_context(model.encode_text(inversion.prompt if prompt is None else prompt))
    steps = model.schedule.sampling(inversion.steps)
    for step in tqdm(steps, "attention", disable=not progress):
        latents = inversion.source_at(step.index - 1).to(model.device, model.dtype)
        model.unet(latents, step.t, context, hooks)
        if step.index in at and on_step is not None:
            on_step(once.seen(size, grid, (step.index,)))
        every.take(once)
    return every.seen(size, grid, tuple(range(inversion.steps)))


class _Sums:
    """Running sums of maps, averaged over heads, by kind and scale, and how many went into each."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, int], Tensor] = {}
        self.counts: dict[tuple[str, int], int] = {}

    def add(self, site: Site, probabilities: Tensor) -> None:
        """One layer's map of the only row, (1 h n m)."""
        self._add((site.kind, site.scale), reduce(probabilities, "1 h n m -> n m", "mean"), 1)

    def take(self, other: "_Sums") -> None:
        """All that another has, which is empty then."""
        for key, total in other.sums.items():
            self._add(key, total, other.counts[key])
        other.sums.clear()
        other.counts.clear()

    def seen(self, size: Grid, grid: Grid, steps: tuple[int, ...]) -> SeenMaps:
        """The mean of all, every layer counting the same, resized from its share of latents of (h, w) to the grid."""
        resized: dict[str, Tensor] = {}
        for (kind, scale), total in self.sums.items():
            up = resizing((size[0] // scale, size[1] // scale), grid).to(total)
            mean = up @ total
            if kind == "self":
                mean = mean @ shared_out(up)
            resized[kind] = resized.get(kind, 0) + mean
        M, A = (
            resized[kind] / sum(count for key, count in self.counts.items() if key[0] == kind)
            if kind in resized
            else None
            for kind in KINDS.values()
        )
        return SeenMaps(M, None if A is None else A.T.reshape(-1, *grid), grid, steps)

    def _add(self, key: tuple[str, int], total: Tensor, count: int) -> None:
        if key in self.sums:
            self.sums[key] += total
        else:
            self.sums[key] = total
        self.counts[key] = self.counts.get(key, 0) + count


def grid_of(size: Grid, resolution: int) -> Grid:
    """The grid of a shape like latents of (h, w) whose longer side has so many places. Raises ValueError below 2."""
    if resolution < 2:
        raise ValueError(f"the resolution is {resolution}; want at least 2 places a side")
    h, w = (max(1, round(side * resolution / max(size))) for side in size)
    return h, w


def resizing(small: Grid, grid: Grid) -> Tensor:
    """The matrix that resizes pictures of one grid to another, bilinear: (places of grid, places of small)."""
    places = small[0] * small[1]
    if small == grid:
        return torch.eye(places)
    units = torch.eye(places).reshape(places, 1, *small)
    shown = F.interpolate(units, grid, mode="bilinear", align_corners=False, antialias=True)
    return shown.reshape(places, -1).T


def shared_out(up: Tensor) -> Tensor:
    """The matrix by which what a place of the small grid has is shared out among those of the large: rows sum to one.

    For the keys of a map, whose sum over all places has to stay one.
    """
    return (up / up.sum(dim=0)).T


def leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest singular values (count,) and their vectors over the columns (count n), by subspace iteration.

    In float64, started from a fixed seed: of a 4096 x 4096 map it takes seconds where the complete decomposition takes
    minutes. The entry of largest absolute value of each vector is positive. Raises ValueError for more than there are.
    """
    if not 1 <= count <= min(matrix.shape):
        raise ValueError(f"{count} components are asked for; want 1..{min(matrix.shape)}")
    matrix = matrix.double()
    width = min(count + SPARE, min(matrix.shape))
    basis = torch.randn(matrix.shape[1], width, generator=torch.Generator().manual_seed(0)).to(matrix)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(matrix.mT @ torch.linalg.qr(matrix @ basis).Q).Q
    _, values, inner = torch.linalg.svd(matrix @ basis, full_matrices=False)
    vectors = (inner @ basis.mT)[:count]
    peaks = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return values[:count].float(), (vectors * peaks.sign()).float()


def word_columns(tokenizer: Tokenizer, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
    """Every word of a prompt, in order, with the columns of its tokens, as far as the tokenizer's length goes.

    A word is what the vocabulary ends as one, a comma too, or a word that was added to it.
    """
    pieces = [piece for _, piece in tokenizer.words(prompt)][: tokenizer.length - 2]
    found: list[tuple[str, tuple[int, ...]]] = []
    first = 0
    while first < len(pieces):
        added = tokenizer.added.get(pieces[first].removesuffix("</w>"))
        ends = (i for i in range(first, len(pieces)) if pieces[i].endswith("</w>"))
        end = min(first + len(added), len(pieces)) if added else next(ends, len(pieces) - 1) + 1
        text = pieces[first] if added else "".join(pieces[first:end])
        found.append((text.removesuffix("</w>"), tuple(range(first + 1, end + 1))))
        first = end
    return found


def _chosen(model: StableDiffusion, name: MapName, layers: Sequence[str]) -> list[Site]:
    if name not in get_args(MapName):
        raise ValueError(f"no map {name!r}; want one of {', '.join(get_args(MapName))}")
    of_kind = [site for site in model.unet.sites if site.kind == KINDS[name]]
    if found := [site for site in of_kind if not layers or any(f"{site}.".startswith(f"{one}.") for one in layers)]:
        return found
    raise ValueError(f"no layer of {name} is among those asked for; there is {', '.join(map(str, of_kind))}")


def _adding(site: Site, sums: _Sums) -> Hook:
    return Hook(map=reading(lambda probabilities: sums.add(site, probabilities)))
