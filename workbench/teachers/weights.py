"""Where a network's weights come from, and copies of its structure with others or with none."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from workbench.errors import RequestError
from workbench.teachers.base import VelocityNetwork
from workbench.teachers.json_file import read_json

NetworkT = TypeVar("NetworkT", bound=nn.Module)

_SINGLE = "diffusion_pytorch_model.safetensors"
_INDEX = _SINGLE + ".index.json"


class Weights(Protocol):
    """A module's weights by the names of its ``state_dict``."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        ...

    def read(self, name: str, rows: slice | None) -> Tensor:
        """A tensor, or the named rows of it."""
        ...


class ModuleWeights:
    """The weights of a module in memory."""

    def __init__(self, module: nn.Module) -> None:
        self._state = module.state_dict()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def read(self, name: str, rows: slice | None) -> Tensor:
        value: Tensor = self._state[name]
        return value if rows is None else value[rows]


class WeightFiles:
    """Weights in the safetensors files of a saved component; a rank reads only its own rows.

    Raises:
        RequestError: there are no such files.
    """

    def __init__(self, component: Path) -> None:
        self._component = component
        index = component / _INDEX
        self._files: dict[str, str] | None = None  # None: all are in one
        if index.is_file():
            self._files = dict(read_json(index).get("weight_map") or {})
        elif not (component / _SINGLE).is_file():
            raise RequestError(f"{component} holds no {_SINGLE}.")
        self._open: dict[str, Any] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file_of(name).get_slice(name).get_shape())

    def read(self, name: str, rows: slice | None) -> Tensor:
        opened = self._file_of(name)
        tensor: Tensor = opened.get_tensor(name) if rows is None else opened.get_slice(name)[rows]
        return tensor

    def _file_of(self, name: str) -> Any:
        """The open file that has a tensor.

        Raises:
            RequestError: no file has it, or the one that should is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            file = _SINGLE if self._files is None else self._files[name]
            if file not in self._open:
                self._open[file] = safe_open(self._component / file, "pt")
            self._open[file].get_slice(name)
        except (OSError, KeyError, SafetensorError) as error:
            raise RequestError(f"{self._component} lacks {name!r} ({error}).") from None
        return self._open[file]


def sharing_memory(module: NetworkT) -> NetworkT:
    """A copy of the structure that shares memory but has its own flags and hooks."""
    same: dict[int, Any] = {
        id(value): nn.Parameter(value.detach(), requires_grad=False)
        for value in module.parameters()
    }
    same |= {id(value): value.detach() for value in module.buffers()}
    return copy.deepcopy(module, same)


def without_weights(
    module: NetworkT, dtype: torch.dtype, buffers: dict[Tensor, Tensor]
) -> NetworkT:
    """A copy of the structure whose parameters, of that type, are on torch's meta device.

    Buffers are copied: those that no file holds (positions, rotary angles) were computed when the
    module was made, and would be lost.

    Args:
        buffers: copies of the module's buffers, made here where they lack; all structures that
            are given the same share them, which nobody writes (0.9 GB each in SD3.5 Medium).

    Raises:
        RequestError: it has tied weights.
    """
    empty: dict[int, Any] = {}
    for value in module.buffers():
        if value not in buffers:
            buffers[value] = value.detach().clone()
        empty[id(value)] = buffers[value]
    every = list(module.named_parameters(remove_duplicate=False))
    if len(every) != len({id(value) for _, value in every}):
        raise RequestError(
            f"{type(module).__name__} uses one weight under several names (tied weights), which "
            "would come apart in training: give each layer its own."
        )
    for _, value in every:
        kind = dtype if value.is_floating_point() else value.dtype
        shell = torch.empty(value.shape, dtype=kind, device="meta")
        empty[id(value)] = nn.Parameter(shell, requires_grad=value.requires_grad)
    return copy.deepcopy(module, empty)


def give_memory(root: nn.Module, device: torch.device) -> None:
    """Allocate uninitialized parameters on a device and move buffers there.

    Buffers stay the same tensors, so that those which several networks share exist once.
    """
    buffers = [(part, name, b) for part in root.modules() for name, b in part._buffers.items()]
    root.to_empty(device=device)
    for part, name, buffer in buffers:
        if buffer is not None:
            part._buffers[name] = buffer
            if buffer.device != device:
                buffer.data = buffer.to(device)


@torch.no_grad()
def fill(targets: Iterable[tuple[str, Tensor]], weights: Weights) -> None:
    """Copy weights into tensors of those names; sharded ones get the rows of their shard alone.

    Raises:
        RequestError: a tensor that the weights have in another shape.
    """
    for name, target in targets:
        stored_shape, wanted = weights.shape(name), tuple(target.shape)
        if stored_shape != wanted:
            raise RequestError(
                f"The weights {name} have the shape {stored_shape}, but the network's settings "
                f"say {wanted}."
            )
        sharded = isinstance(target, DTensor)
        local = target.to_local() if isinstance(target, DTensor) else target
        local.copy_(weights.read(name, rows_of(target) if sharded else None))


def stored(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the buffers that files hold."""
    yield from module.named_parameters()
    persistent = module.state_dict().keys()
    yield from ((name, value) for name, value in module.named_buffers() if name in persistent)


def rows_of(tensor: Tensor) -> slice:
    """The rows of the whole tensor in this rank's shard, as FSDP2 splits them (``chunk``)."""
    if isinstance(tensor, DTensor):
        for dimension, placement in enumerate(tensor.placements):
            if placement.is_shard(0):
                count, mesh = tensor.shape[0], tensor.device_mesh
                size = -(-count // mesh.size(dimension))
                start = min(count, mesh.get_local_rank(dimension) * size)
                return slice(start, min(count, start + size))
    return slice(0, len(tensor))


def empty_transformer(component: Path) -> Any:
    """The diffusers transformer of a saved component, without weights but with its buffers.

    Raises:
        RequestError: its settings are damaged or name no class of diffusers.
    """
    import diffusers
    from accelerate import init_empty_weights

    settings = read_json(component / "config.json")
    kind = getattr(diffusers, str(settings.get("_class_name")), None)
    if kind is None:
        raise RequestError(f"{component} names no transformer of diffusers.")
    with init_empty_weights(include_buffers=False):
        return kind.from_config(settings)


def on_meta(network: VelocityNetwork) -> bool:
    """Whether a network has no weights of its own yet."""
    return any(value.is_meta for value in network.parameters())
