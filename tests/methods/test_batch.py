"""What a batch draws is made where it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from workbench.flow import NoiseSource
from workbench.methods import Batch


class Devices(TorchDispatchMode):
    """Kinds of devices that tensors were made on."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        self.used |= {x.device.type for x in tree_iter(made) if isinstance(x, torch.Tensor)}
        return made


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_noise_never_leaves_the_device(device: str) -> None:
    batch = Batch(7, 3, None, 1, NoiseSource(2), (4, 8, 8), torch.device(device))
    with Devices() as devices:
        normal = batch.normal("generator/z")
    assert devices.used == {device}
    assert normal.shape == (3, 4, 8, 8)


def test_a_micro_batch_has_the_noise_of_its_samples() -> None:
    whole, part = (
        Batch(start, count, None, 1, NoiseSource(2), (4, 8, 8), torch.device("cpu"))
        for start, count in ((7, 5), (10, 2))
    )
    assert torch.equal(whole.normal("generator/z")[3:], part.normal("generator/z"))
    assert torch.equal(whole.uniform("generator/t")[3:], part.uniform("generator/t"))
