"""Networks that learn as a whole, in pieces: of every weight each process holds a part (FSDP2).

Fully sharded data parallel (arXiv:2304.11277, ZeRO's third stage, arXiv:1910.02054): a block's weights are put together
for its turn, forward and backward, and are then let go; gradients and the optimizer's moments exist in pieces alone.
Of N processes each holds 1 / N of what learning a network takes, 16 bytes a weight.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.blocks import ResBlock
from models.clip import CLIPLayer
from models.transformer import SpatialTransformer
from weights.load import Model
from weights.names import NetworkName

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # which takes a second to import

WORTH_CUTTING: tuple[NetworkName, ...] = ("unet", "text")  # networks worth cutting up where they learn
TOGETHER = (ResBlock, SpatialTransformer, CLIPLayer)  # whose weights come and go at once


@contextmanager
def in_pieces(model: Model, names: Sequence[NetworkName]) -> Iterator[Model]:
    """The model with twins in the places of these networks, of whose weights this process holds its part.

    All processes enter together, and call the twins as often as each other. The networks themselves stay as they are;
    those on a GPU wait in the CPU's memory meanwhile.
    """
    device, networks = model.device, [model.networks[name] for name in names]
    twins = {}
    try:
        for network in networks:
            twins[network] = _twin(network, device)
            if device.type != "cpu":
                network.to("cpu")
        own = {field.name: getattr(model, field.name) for field in fields(model)}
        others: dict[str, Any] = {name: twins[value] for name, value in own.items() if value in networks}
        yield replace(model, **others)
    finally:
        for network in networks:
            network.to(device)


def _twin(network: nn.Module, device: torch.device) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    numbers = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in network.parameters()}
    twin = deepcopy(network, numbers)  # layers of its own, and the same numbers, of which each process copies its part
    for layer in [layer for layer in twin.modules() if isinstance(layer, TOGETHER)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(twin, mesh=mesh, reshard_after_forward=True)
    return twin


def is_piece(tensor: Tensor) -> bool:
    """Whether this process holds only a part of it."""
    return hasattr(tensor, "full_tensor")  # of DTensor


def put_together(tensor: Tensor, keep: bool = True) -> Tensor:
    """A tensor put together from all processes' parts, on the CPU; one that is no part as it is.

    All processes ask for it together. keep: whether this one wants the numbers; else it gets the shape alone.
    """
    if not is_piece(tensor):
        return tensor
    return cast("DTensor", tensor.detach()).full_tensor().to("cpu" if keep else "meta")


def placed_as(tensor: Tensor, place: Tensor) -> Tensor:
    """This process' part of a whole tensor, as it has a part of `place`; where that is whole, the tensor."""
    if not is_piece(place):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = cast("DTensor", place).device_mesh, cast("DTensor", place).placements
    return distribute_tensor(tensor.detach().to(place.device), mesh, placements, src_data_rank=None)


def worth_cutting(networks: Mapping[NetworkName, nn.Module], names: Collection[str]) -> list[NetworkName]:
    """Of the large networks those all of whose parameters are among these names, "network.parameter"."""
    there = [(part, networks[part]) for part in WORTH_CUTTING if part in networks]
    return [part for part, network in there if all(f"{part}.{name}" in names for name, _ in network.named_parameters())]
