"""What can be distilled: teachers, velocity networks and encoded prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from workbench.errors import RequestError, SettingsError

if TYPE_CHECKING:
    from workbench.teachers.weights import Weights


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts: named tensors that share their leading (batch) dimension.

    The names are the owning family's business (prompt embeddings, attention mask, pooled
    embedding, ...); everything outside the family only indexes, joins and moves them.
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        lengths = {name: tensor.shape[0] for name, tensor in self.tensors.items()}
        if not lengths:
            raise ValueError("Conditioning needs at least one tensor")
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Conditioning tensors differ in batch size: {lengths}")

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning({name: function(tensor) for name, tensor in self.tensors.items()})

    def select(self, index: Tensor | slice) -> Conditioning:
        """Rows by an int64 index (any order, repeats allowed) or a slice."""
        return self.map(lambda tensor: tensor[index])

    def expand(self, count: int) -> Conditioning:
        """One row repeated ``count`` times without copying."""
        if len(self) != 1:
            raise ValueError(f"expand needs a single row, not {len(self)}")
        return self.map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def to(self, device: torch.device | str) -> Conditioning:
        """On a device; to a GPU from pinned memory, without which the copy would be waited for."""
        pinned = torch.device(device).type == "cuda"

        def moved(tensor: Tensor) -> Tensor:
            if pinned and tensor.device.type == "cpu":
                tensor = tensor.contiguous().pin_memory()
            return tensor.to(device, non_blocking=True)

        return self.map(moved)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        names = parts[0].tensors.keys()
        return Conditioning({name: torch.cat([part[name] for part in parts]) for name in names})


@runtime_checkable
class Teacher(Protocol):
    """The least a teacher has. An ``nn.Module`` is copied for the student and the fake score.

    ``velocity`` takes x_t (B, *latent_shape), t (B,) in [0, 1] with t = 1 pure noise, and the
    conditioning (or None), and returns the rectified-flow velocity eps - x_0, shaped like x_t.
    """

    latent_shape: tuple[int, ...]

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor: ...


class VelocityNetwork(nn.Module, ABC):
    """A trainable rectified-flow velocity network, the only kind of module the trainer handles.

    Subclasses implement :meth:`predict` in the network's own terms (time scale, packing, masks).
    Inputs and outputs are float32 whatever the precision of the weights. Subclasses cast what the
    module computes with to :attr:`weights_dtype`, but never times, which bfloat16 would round
    (0.999 to 1). ``evaluations`` counts samples, not calls, so that a guided evaluation of B
    samples counts 2 B; ``backward_evaluations`` counts those that a gradient came back through.
    ``distilled_guidance`` is the scale fed to a network that takes guidance as an input (FLUX,
    SANA-Sprint); None where it takes none.
    """

    def __init__(self, module: nn.Module, distilled_guidance: float | None = None) -> None:
        super().__init__()
        self.module = module
        self.distilled_guidance = distilled_guidance
        self.compute_dtype: torch.dtype | None = None
        """The type of mixed precision; None if weights are used as they are stored."""
        self.evaluations = 0
        self.backward_evaluations = 0

    @property
    def weights_dtype(self) -> torch.dtype:
        """Of the weights as the module computes with them, while it is being called.

        Sharded in mixed precision they are bfloat16 there and float32 outside. diffusers' own
        ``dtype`` walks over every parameter at each call.
        """
        if self.compute_dtype is not None:
            return self.compute_dtype
        return next(self.module.parameters()).dtype

    def guidance_input(self, t: Tensor) -> Tensor | None:
        """The embedded guidance of a batch, float32 (B,) like t, or None."""
        if self.distilled_guidance is None:
            return None
        return torch.full_like(t, self.distilled_guidance, dtype=torch.float32)

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        """Velocity eps - x_0 (B, ...) from x_t (B, ...) and t (B,)."""

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Conditioning | None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The velocity (B, ...), float32; ``with_features`` also the last features.

        Those are the tokens after the last norm, float32 (B, tokens, width), which the output
        layer makes the velocity of: outputs of this call too, because sharding unshards for the
        backward pass of what a network returns.

        Raises:
            RequestError: features are asked for and the module does not say where they are.
        """
        self.evaluations += x_t.shape[0]
        with _inputs_of(self.feature_layer() if with_features else None) as seen:
            velocity = self.predict(x_t, t, cond).float()
        # FSDP2 hangs its backward hook on the output, which an in-place change of a view drops.
        velocity = velocity.clone() if velocity._is_view() else velocity
        if not with_features:
            self._count_backward(len(x_t), velocity)
            return velocity
        features = seen[0].float()
        features = features.flatten(1, -2) if features.ndim > 2 else features[:, None]
        self._count_backward(len(x_t), velocity, features)
        return velocity, features

    def call_module(self, hidden_states: Tensor, **arguments: Any) -> tuple[Tensor, ...]:
        """The module in its own terms, as a stock pipeline calls it.

        Counted and sharded as :meth:`forward` is; whoever wraps one wraps both.

        Args:
            hidden_states: the module's own input (B, ...).
            arguments: the module's others, by name; ``return_dict=False`` among them.

        Returns:
            What the module returns, in the precision of the weights.
        """
        self.evaluations += len(hidden_states)
        outputs = self.module(hidden_states, **arguments)
        return tuple(output.to(self.weights_dtype) for output in outputs)

    def feature_layer(self) -> nn.Linear:
        """The output layer, whose input are the last features.

        Raises:
            SettingsError: the module has no linear layer ``proj_out``.
        """
        layer = getattr(self.module, "proj_out", None)
        if not isinstance(layer, nn.Linear):
            raise SettingsError(
                f"{type(self.module).__name__} has no last features for a discriminator: it needs "
                "a linear output layer named proj_out."
            )
        return layer

    def blocks(self) -> Iterator[nn.Module]:
        """The repeated transformer blocks: units of sharding and of gradient checkpointing."""
        for child in self.module.children():
            if isinstance(child, nn.ModuleList):
                yield from child

    def enable_gradient_checkpointing(self) -> None:
        """Trade compute for memory in every block.

        Raises:
            RequestError: the wrapped module does not support it.
        """
        enable = getattr(self.module, "enable_gradient_checkpointing", None)
        if enable is None:
            raise RequestError(
                f"{type(self.module).__name__} has no gradient checkpointing; set "
                "training.gradient_checkpointing=false."
            )
        enable()

    def _count_backward(self, count: int, *outputs: Tensor) -> None:
        """Count the samples once a gradient comes back through any of the outputs."""

        def counted(_: Tensor) -> None:
            self.backward_evaluations += count

        through = [output for output in outputs if output.requires_grad]
        if through:
            register_multi_grad_hook(through, counted, mode="any")


@contextmanager
def _inputs_of(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """The inputs that a layer gets meanwhile, in order."""
    seen: list[Tensor] = []
    if layer is None:
        yield seen
        return
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


class OwnVelocity(VelocityNetwork):
    """Wraps a bring-your-own module that already speaks ``velocity(x_t, t, cond)``.

    Latents and encodings come in the precision of its weights, times in float32.
    """

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        weights = self.compute_dtype or next(self.module.parameters(), x_t).dtype
        if cond is not None:
            cond = cond.map(lambda x: x.to(weights) if x.is_floating_point() else x)
        return cast(Teacher, self.module).velocity(x_t.to(weights), t, cond)


class Distillable(Protocol):
    """A frozen teacher that a run can distil, and whose samples it can score.

    Attributes:
        name: what it was asked for as.
        folder: what it was loaded from.
        network: the velocity.
        start: the network that student and fake score start at, where that is not the teacher's
            own, which has no weights to start from.
        latent_shape: of one sample.
    """

    name: str
    folder: Path
    network: VelocityNetwork
    start: VelocityNetwork | None
    latent_shape: tuple[int, ...]

    @property
    def weights(self) -> Weights | None:
        """Where those of a network without any in memory are; None for a closed form."""
        ...

    @property
    def resolution(self) -> int | None:
        """Height and width of its images in pixels; None for points."""
        ...

    @property
    def fingerprint(self) -> str:
        """Short hash of all that it was loaded from."""
        ...

    def uncond(self) -> Conditioning | None:
        """The empty prompt, one row; None for a teacher without prompts."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, *latent_shape) to what is scored: images (B, 3, H, W) in [0, 1], say."""
        ...

    def release_network(self) -> None:
        """Free the network's memory once its weights are no longer needed."""
        ...


def starting_network(teacher: Distillable) -> VelocityNetwork:
    """Where every trained role starts."""
    return teacher.start if teacher.start is not None else teacher.network
