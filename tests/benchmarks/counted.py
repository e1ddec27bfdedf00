"""What a swap at full size takes, counted on shapes alone: no weights, no data, the same on every machine.

Multiplications are those of matrix products, convolutions and attention, as torch counts them; what is held is
followed tensor by tensor (tests/live.py). A swap is weighed as in benchmarks/full.py.
"""

from collections.abc import Iterator, Mapping

import torch
from live import peak_of, peaks_of, without_data
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full import WEIGHTS
from benchmarks.measure import Figure
from benchmarks.parts import PEAK_AT_MOST, Bench
from models.config import SD21_BASE, UNetConfig
from models.transformer import TransformerBlock
from models.unet import UNet
from photoswap import side_by_side as loop
from photoswap.methods import Photoswap
from photoswap.pictures import Picture
from photoswap.tokens import align
from samplers import Schedule, guided_eps, sample

TABLES = Photoswap(steps=4, phi=1, M=3, A=2)  # each once


def counted(bench: Bench, config: UNetConfig = SD21_BASE.unet) -> Iterator[Figure]:
    """A swap against plain sampling of two pictures, at 512 and 768 px: operations and peak, by counting alone."""
    schedule = Schedule()
    for side in (16,) if bench.short else (64, 96):
        unet, mode = without_data(config)
        with mode:
            pictures = _pictures(config, side)
        step = lambda unet=unet, pictures=pictures: _plain(unet, schedule, pictures)  # noqa: E731
        moments = loop.side_by_side(unet, schedule, pictures, TABLES)
        spent = [_operations(lambda moments=moments: next(moments)) for _ in WEIGHTS]
        whole = sum(w * each for w, each in zip(WEIGHTS, spent, strict=True))
        yield Figure("counted", f"a swap at {8 * side} px, operations", whole / sum(WEIGHTS) / _operations(step))
        yield Figure(
            "counted", f"a swap at {8 * side} px, projections nobody reads", _unread(unet, side) / whole, "of it"
        )
        peaks = peaks_of(loop.side_by_side(unet, schedule, pictures, TABLES))
        yield Figure(
            "counted", f"a swap at {8 * side} px, peak of activations", max(peaks) / peak_of(step), most=PEAK_AT_MOST
        )


def _pictures(config: UNetConfig, side: int) -> Mapping[str, Picture]:
    context, null = torch.randn(2, 77, config.context_channels), torch.randn(1, 77, config.context_channels)
    noise, known = torch.randn(1, 4, side, side), torch.randn(TABLES.steps, 4, side, side)
    aligned = {"tokens": align([1, 2, 3, 4], [1, 2, 9, 3, 4])}
    return {
        "source": Picture(noise, context[:1], null, known=known),
        "target": Picture(noise, context[1:], null, alignments=aligned),
    }


@torch.no_grad()
def _plain(unet: UNet, schedule: Schedule, pictures: Mapping[str, Picture]) -> None:
    """One step of both, four rows in a batch."""
    source, target = pictures.values()
    contexts = torch.cat([source.context, target.context])
    eps = guided_eps(unet, schedule, source.uncond, contexts)
    sample(eps, torch.cat([source.noise, target.noise]), schedule.sampling(1))


def _unread(unet: UNet, side: int) -> float:
    """Operations that project what no attention uses: where phi comes q, k and v of two rows, where M comes q and k."""
    blocks = [block for block in unet.modules() if isinstance(block, TransformerBlock)]
    each = sum(2 * (side // b.self_site.scale) ** 2 * b.attn1.to_q.weight.numel() for b in blocks)
    return float(each * (WEIGHTS[0] * 2 * 3 + sum(WEIGHTS[1:3]) * 2))


def _operations(job: object) -> float:
    with FlopCounterMode(display=False) as counter:
        job()  # type: ignore[operator]
    return float(counter.get_total_flops())
