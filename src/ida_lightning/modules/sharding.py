"""A frozen network whose weights lie in shares on several processes, by FSDP2; no process holds all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import inf

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from ida_lightning.errors import InputError

# What is gathered at once: at most this share of a network, if it has parts that small, and never less than so many
# values, whose gathering would cost more than the memory is worth.
_MOST, _LEAST = 1 / 8, 1 << 16
# These have no forward to gather for, or use the weights of their parts without calling them.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WHOLE = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def processes_of(trainer: L.Trainer | None, strategies: Collection[str] = ("shard",)) -> DeviceMesh | None:
    """Return the processes of a fit, if there are teachers to share out; None for one process, which is logged."""
    if "shard" not in strategies:
        return None
    if trainer is None or trainer.world_size == 1:
        rank_zero_info("teacher_strategy: there is one process, which holds the whole teacher")
        return None
    return init_device_mesh(trainer.strategy.root_device.type, (trainer.world_size,))


@contextmanager
def without_values(wanted: bool = True) -> Iterator[None]:
    """Build networks whose parameters are on the meta device; their buffers are real, also those in no state dict.

    Example:
        >>> with without_values():
        ...     network = nn.BatchNorm1d(2)
        >>> network.weight.device.type, network.running_mean.device.type
        ('meta', 'cpu')
    """

    def drop(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:  # the latter is shared with another module
            return None  # leaves it
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    if not wanted:
        yield
        return
    handle = register_module_parameter_registration_hook(drop)  # type: ignore[arg-type]  # it may return a parameter
    try:
        yield
    finally:
        handle.remove()


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Leave every process its share of the rows of every parameter, on the device of the mesh; buffers stay whole.

    A forward pass, which all processes must make together, gathers one part of the network after the other.

    Args:
        network: frozen; parameters on the meta device get memory, but no values. One that is shared out already stays.
        mesh: the processes.

    Raises:
        InputError: for a network that FSDP2 cannot take apart.
    """
    if isinstance(network, FSDPModule):
        return
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError("teacher_strategy: expected replicate for a teacher that is TorchScript, got shard")
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    if len(names) > len(list(network.parameters())):
        raise InputError(
            "teacher_strategy: expected replicate for a teacher with weights that it uses twice, got shard"
        )
    try:
        for part in [*_parts(network, _MOST * _values(network)), network]:
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
        device = torch.empty(0, device=mesh.device_type).device
        network._apply(  # type: ignore[no-untyped-call]  # not to_empty, which takes the buffers' values too
            lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
        )
    except (ValueError, NotImplementedError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"teacher_strategy: expected replicate, as FSDP2 cannot share this teacher out: {reason}"
        ) from error


def share_out(network: nn.Module, mesh: DeviceMesh, tensors: Mapping[str, Tensor]) -> None:
    """Share a network out and load the rows of this process; see :func:`shard` and :func:`load_shares`."""
    shard(network, mesh)
    load_shares(network, tensors)


def refuse_conversion(fn: Callable[[Tensor], Tensor], device: torch.device, precision: str | None) -> None:
    """Refuse what ``nn.Module.to`` and its like would make of shares, if that is another precision than their own."""
    dtype = fn(torch.empty(0, device=device)).dtype
    if precision is None and dtype != torch.float32:
        raise InputError(
            "teacher_strategy: expected replicate, a mixed precision or a teacher_precision where all weights become "
            f"{dtype}, got shard"
        )


def load_shares(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load the rows of this process into a network that is shared out.

    Args:
        network: after :func:`shard`.
        tensors: by the names of its state dict. Of a mapped file only the rows that are taken are read.
    """
    with torch.no_grad():
        for name, own in network.state_dict().items():
            if name not in tensors:
                continue
            if not isinstance(own, DTensor):
                own.copy_(tensors[name])
                continue
            rows = -(-own.shape[0] // own.device_mesh.size())
            first = own.device_mesh.get_local_rank() * rows
            own.to_local().copy_(tensors[name][first : first + rows])


def agreed(mesh: DeviceMesh, mine: bool) -> bool:
    """Say whether something is so on every process; all must ask."""
    flag = torch.tensor(int(mine), device=mesh.device_type)
    dist.all_reduce(flag, dist.ReduceOp.MIN, group=mesh.get_group())
    return bool(flag)


def check_equal_batches(trainer: L.Trainer, mesh: DeviceMesh) -> None:
    """Check that no process of a fit asks the teacher more often than the others, which would wait for ever.

    Raises:
        InputError: for loaders of other lengths on other processes, and for validation loaders without one.
    """
    mine = [trainer.num_training_batches, *trainer.num_val_batches]
    if not agreed(mesh, mine == trainer.strategy.broadcast(mine)) or inf in trainer.num_val_batches:
        raise InputError(
            "teacher_strategy: expected loaders of one known length on all processes, which gather its weights "
            f"together, got {mine[0]} training and {mine[1:]} validation batches on process {trainer.global_rank}; "
            "limit_train_batches and limit_val_batches make them equal"
        )


def _parts(network: nn.Module, most: float) -> Iterator[nn.Module]:
    """Yield the modules whose weights are gathered together, the rest belongs to the network itself."""
    for part in network.children():
        divisible = not isinstance(part, _WHOLE) and next(part.children(), None) is not None
        if isinstance(part, _CONTAINERS) or (divisible and _values(part) > most):
            yield from _parts(part, most)
        elif _values(part) >= _LEAST:
            yield part


def _values(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
