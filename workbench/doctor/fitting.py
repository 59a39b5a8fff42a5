"""Does a run fit into this machine's memory, and if not, with which settings would it?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from workbench.errors import RequestError
from workbench.teachers.architecture import Architecture
from workbench.training.config import RunConfig
from workbench.training.memory import Estimate, estimate_memory, least_memory
from workbench.training.overrides import with_overrides
from workbench.training.parallel import choose_device

_FP32 = 4
_USABLE = 0.92  # the rest goes to the CUDA context and to fragmentation
_EVERY = "training.sync_every_micro_batch=true"
_LORA = 'training.lora={"rank": 64}'
_MORE_RANKS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Device:
    """What one rank has.

    Attributes:
        memory: bytes a rank may use.
        shared: whether all ranks draw on the same memory.
    """

    name: str
    memory: int
    shared: bool

    @staticmethod
    def here(ranks: int) -> Device:
        """CUDA's whole memory for each rank, else an equal part of what is free in RAM.

        Raises:
            RequestError: fewer CUDA devices than ranks.
        """
        if choose_device().type == "cuda":
            if ranks > torch.cuda.device_count():
                raise RequestError(
                    f"{ranks} ranks need as many CUDA devices; here are "
                    f"{torch.cuda.device_count()}."
                )
            properties = torch.cuda.get_device_properties(0)
            return Device(properties.name, int(_USABLE * properties.total_memory), shared=False)
        import psutil

        available = psutil.virtual_memory().available
        return Device(f"CPU, {os.cpu_count()} cores", available // ranks, shared=True)


@dataclass(frozen=True)
class Teacher:
    """Sizes of a teacher.

    Attributes:
        autoencoder: numbers in it.
        text_bytes: of all its text encoders, each in the precision that it is loaded in. They are
            gone before the rest is loaded: a rank reads into its roles only what they keep.
    """

    architecture: Architecture
    autoencoder: int
    text_bytes: int

    @property
    def held_bytes(self) -> int:
        """What a session keeps beside the run's roles: the autoencoder, in float32."""
        return _FP32 * self.autoencoder


@dataclass(frozen=True)
class MemoryPlan:
    """Settings that would make a run fit."""

    assignments: tuple[str, ...]
    ranks: int
    estimate: Estimate


def needed(teacher: Teacher, config: RunConfig, ranks: int) -> Estimate:
    """The run's worst moment, everything that is held included.

    Raises:
        RequestError: the batch does not divide by the ranks.
    """
    return estimate_memory(teacher.architecture, config, ranks, teacher.held_bytes)


def first_that_fits(
    teacher: Teacher, config: RunConfig, ranks: int, device: Device
) -> MemoryPlan | None:
    """The first in a row of ever more modest settings that fits, or None.

    The row: gradient checkpointing, one sample at a time, bf16, gradients reduced over the ranks
    at each of them, adapters, more devices.
    """
    for assignments, count in _suggested_settings(config, ranks, device):
        try:
            modest = with_overrides(config, assignments)
            least = least_memory(teacher.architecture, modest, count, teacher.held_bytes)
            if least > device.memory:
                continue
            estimate = needed(teacher, modest, count)
        except RequestError:  # this number of ranks does not divide the batch
            continue
        if estimate.total <= device.memory:
            return MemoryPlan(tuple(assignments), count, estimate)
    return None


def _suggested_settings(
    config: RunConfig, ranks: int, device: Device
) -> Iterator[tuple[Sequence[str], int]]:
    training = config.training
    taken: list[str] = []
    if not training.gradient_checkpointing:
        taken.append("training.gradient_checkpointing=true")
        yield list(taken), ranks
    local_batch = training.batch_size // ranks
    micro_batch = min(training.micro_batch_size or local_batch, local_batch)
    for size in (16, 4, 1):
        if size < micro_batch:
            yield [*taken, f"training.micro_batch_size={size}"], ranks
    if micro_batch > 1:
        taken.append("training.micro_batch_size=1")
    if training.precision != "bf16-mixed":
        taken += ["training.precision=bf16-mixed", "evaluation.precision=bf16"]
        yield list(taken), ranks
    whole_gradients = not (training.sync_every_micro_batch or training.lora)
    if whole_gradients and ranks > 1 and local_batch > 1:
        taken.append(_EVERY)
        yield list(taken), ranks
    if training.lora is None:
        yield [*taken, _LORA], ranks
    if device.shared:
        return
    for adapters in ([], [] if training.lora else [_LORA]):
        for count in _MORE_RANKS:
            if count > ranks:
                yield [*taken, *adapters], count
                if whole_gradients and ranks == 1 and not adapters:
                    yield [*taken, _EVERY], count
