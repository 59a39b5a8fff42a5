"""What turns images into the numbers that scores are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


class Observer(Protocol):
    """Looks at every image once, beside its prompt where that matters.

    A feature network gives D features an image, a scorer of image against prompt one number (D is
    1). ``name`` is for people; ``fingerprint`` changes with anything that changes a row: weights,
    resizing, the network's own precision.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def observe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] on any device and their prompts to rows (B, D), float32.

        No gradient. A row depends on its own image and prompt alone.

        Raises:
            WorkbenchError: a prompt or an image that this observer cannot judge.
        """
        ...


@runtime_checkable
class JudgesPrompts(Protocol):
    """An observer that some prompts mean nothing to."""

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that it could not judge an image by.

        Raises:
            RequestError: names the first of them.
        """
        ...


def check_prompts(observer: Observer, prompts: Sequence[str]) -> None:
    """Let an observer refuse prompts before anything is drawn for them.

    Raises:
        RequestError: as :meth:`JudgesPrompts.check_prompts`.
    """
    if isinstance(observer, JudgesPrompts):
        observer.check_prompts(prompts)


def observer_key(observer: Observer) -> str:
    """What an observer's rows are filed under: equal keys, equal rows."""
    return f"{observer.name}/{observer.fingerprint}"
