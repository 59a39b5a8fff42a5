"""LoRA (Hu et al. 2021, arXiv 2106.09685): several adapters over one frozen copy of a network.

An adapted layer computes W x + scale B A x with W frozen; B starts at zero, so that every adapter
starts as the network itself. peft holds the layers. Which adapter is on is decided here
and only here: each network turns its own on for the length of its forward pass, a checkpointed
block turns the same one on again when it is recomputed, and at all other times all are off.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workbench.errors import RequestError, SettingsError, unknown_name
from workbench.flow.noise import NoiseSource
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.weights import rows_of, stored
from workbench.training.config import LoraConfig
from workbench.training.parallel import local_tensors


class AdapterBase(nn.Module):
    """A network with named adapters in its module, all off.

    Args:
        network: becomes this base's own; its weights are frozen and keep their type. Adapters are
            float32 over a base of any type.

    Raises:
        RequestError: the network has no layers that ``settings.targets`` names.
    """

    def __init__(
        self, network: VelocityNetwork, settings: LoraConfig, names: Sequence[str]
    ) -> None:
        super().__init__()
        self.settings, self.network = settings, network
        targets = adapted_layers(network, settings.targets)
        self.peft_config = _inject(network.module, settings, targets, names)
        self._layers: dict[str, Any] = {path: self.module.get_submodule(path) for path in targets}
        # One list for all layers, changed in place. Not peft's set_adapter: it clears requires_grad
        # of what it turns off, and between forward and backward that silently loses gradients.
        self._on: list[str] = []
        for layer in self._layers.values():
            layer._active_adapter = self._on
            for matrices in (layer.lora_A, layer.lora_B):
                # Of zeros until they are drawn or loaded; float32 whatever the base is.
                matrices.float().to_empty(device=layer.get_base_layer().weight.device)
                for weight in matrices.parameters():
                    weight.data.zero_()
        self.requires_grad_(False)
        self.train(False)  # dropout would make phi and psi differ where they are equal

    @property
    def module(self) -> nn.Module:
        """The network's, with the adapters in it."""
        return self.network.module

    def forward(self, *inputs: Any) -> Any:
        """The network's own. Sharding hangs its hooks here, once for all adapters."""
        return self.network(*inputs)

    def call_module(self, *inputs: Any, **arguments: Any) -> tuple[Tensor, ...]:
        """The network's own, sharded as :meth:`forward` is."""
        return self.network.call_module(*inputs, **arguments)

    def own_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The frozen weights, by the names that they have without adapters."""
        for name, value in stored(self.module):
            if not _is_adapters(name):
                yield name.replace(".base_layer.", "."), value

    @contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Activate one adapter, or none, until the block ends."""
        before = self._on[:]
        self._on[:] = [] if name is None else [name]
        try:
            yield
        finally:
            self._on[:] = before

    @contextmanager
    def acting_as(self, network: AdapterNetwork) -> Iterator[None]:
        """Activate one role's adapter and feed its guidance."""
        self.network.distilled_guidance = network.distilled_guidance
        with self.active(network.adapter_name):
            yield

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block with the adapter that was on when it first ran.

        Raises:
            RequestError: the module cannot be told how to recompute.
        """
        enable = getattr(self.module, "enable_gradient_checkpointing", None)
        keyword = "gradient_checkpointing_func"
        if enable is None or keyword not in inspect.signature(enable).parameters:
            raise RequestError(
                f"{type(self.module).__name__} has no gradient checkpointing that takes {keyword}, "
                "which adapters need; set training.gradient_checkpointing=false."
            )

        def recomputed(block: nn.Module, *inputs: Any) -> Any:
            name = self._on[0] if self._on else None

            def run(*inputs: Any) -> Any:
                with self.active(name):
                    return block(*inputs)

            return checkpoint(run, *inputs, use_reentrant=False)

        enable(**{keyword: recomputed})

    def weights_of(self, name: str) -> nn.Module:
        """One adapter's matrices as a module tree, named as diffusers names them in files."""
        root = nn.Module()
        for path, layer in self._layers.items():
            node = root
            for part in path.split("."):
                if part not in node._modules:
                    node.add_module(part, nn.Module())
                node = node.get_submodule(part)
            node.add_module("lora_A", layer.lora_A[name])
            node.add_module("lora_B", layer.lora_B[name])
        return root

    @torch.no_grad()
    def initialize(self, name: str, noise: NoiseSource) -> None:
        """A drawn from N(0, 1 / (3 fan_in)), peft's variance, by address; B = 0."""
        for path, layer in self._layers.items():
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            (local,) = local_tensors([a])
            if local.is_meta:  # an estimate: there is nothing to write to
                continue
            rows = rows_of(a)
            shape, count = a.shape[1:], rows.stop - rows.start
            drawn = noise.normal(f"lora/{name}/{path}", rows.start, count, shape)
            local.copy_(drawn * (3 * shape.numel()) ** -0.5)
            b.zero_()

    def fused(self, name: str) -> VelocityNetwork:
        """A copy of the plain network, W + scale B A in place of W; needs whole weights."""
        network = copy.deepcopy(self.network)
        for path in self._layers:
            layer: Any = network.module.get_submodule(path)
            layer.merge(adapter_names=[name])
            network.module.set_submodule(path, layer.get_base_layer())
        del network.module.peft_config
        network.evaluations = network.backward_evaluations = 0
        return network


class AdapterNetwork(VelocityNetwork):
    """A role's network: an :class:`AdapterBase` with one adapter active, or none.

    Parameters and state are the adapter's alone; without one, the parameters are the base's.

    Args:
        name: the adapter's; None for the base as it is.
    """

    base: AdapterBase

    def __init__(self, base: AdapterBase, name: str | None) -> None:
        super().__init__(nn.Identity(), base.network.distilled_guidance)
        # Seen as plain attributes, not as parts: the base's weights belong to no single role.
        del self._modules["module"]
        self.__dict__.update(base=base, module=base.module, adapter_name=name)
        if name is not None:
            self.adapter = base.weights_of(name)

    adapter_name: str | None
    adapter: nn.Module

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Conditioning | None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        self.evaluations += len(x_t)
        with self.base.acting_as(self):
            output: Tensor | tuple[Tensor, Tensor] = self.base(x_t, t, cond, with_features)
        self._count_backward(len(x_t), *(output if isinstance(output, tuple) else (output,)))
        return output

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        with self.base.acting_as(self):
            return self.base.network.predict(x_t, t, cond)

    def call_module(self, hidden_states: Tensor, **arguments: Any) -> tuple[Tensor, ...]:
        self.evaluations += len(hidden_states)
        with self.base.acting_as(self):
            return self.base.call_module(hidden_states, **arguments)

    def enable_gradient_checkpointing(self) -> None:
        self.base.enable_gradient_checkpointing()

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        if self.adapter_name is not None:
            yield from super().named_parameters(prefix, recurse, remove_duplicate)
            return
        whole = f"{prefix}.module" if prefix else "module"
        for name, value in self.module.named_parameters(whole, recurse, remove_duplicate):
            if not _is_adapters(name):
                yield name.replace(".base_layer.", "."), value


def adapted_layers(source: VelocityNetwork, targets: str | Sequence[str]) -> list[str]:
    """Names of the layers that get an adapter, in the module's order.

    "blocks": each linear layer of the transformer blocks, 1 x 1 convolutions among them (in SANA
    they are the feed-forward layers). A tuple of names: the layers whose name is, or ends with,
    one of them.

    Raises:
        SettingsError: nothing is found, or a name that no layer ends with.
    """
    layers = {name: m for name, m in source.module.named_modules() if _is_adaptable(m)}
    kind = type(source.module).__name__
    if isinstance(targets, str):
        inside = {id(module) for block in source.blocks() for module in block.modules()}
        found = [name for name, m in layers.items() if id(m) in inside and _is_linear(m)]
        if not found:
            raise SettingsError(
                f"{kind} has no linear layers in transformer blocks; name the layers to adapt in "
                "training.lora.targets."
            )
        return found
    for target in targets:
        if not any(_ends_with(name, target) for name in layers):
            known = {name if len(layers) < 20 else _role_name(name) for name in layers}
            wrong = unknown_name(f"layer of {kind} in training.lora.targets", target, known)
            raise SettingsError(str(wrong))
    return [name for name in layers if any(_ends_with(name, target) for target in targets)]


def merged_network(network: VelocityNetwork) -> VelocityNetwork:
    """A full network of the same velocity: a copy with the adapter, if any, fused in."""
    if not isinstance(network, AdapterNetwork):
        return copy.deepcopy(network)
    if network.adapter_name is None:
        raise ValueError("The base of adapters has no adapter to fuse.")
    full = network.base.fused(network.adapter_name)
    full.distilled_guidance = network.distilled_guidance
    return full


def save_adapter(network: VelocityNetwork, folder: Path, pipeline_type: Any) -> None:
    """Write the adapter so that ``pipe.load_lora_weights(folder)`` takes it, rank and alpha too.

    Args:
        network: a whole (not sharded) network with an adapter.
        folder: gets ``pytorch_lora_weights.safetensors``.
        pipeline_type: the diffusers class that will load it.

    Raises:
        RequestError: the network has no adapter.
    """
    if not isinstance(network, AdapterNetwork) or network.adapter_name is None:
        raise RequestError("This student has no adapter: it was trained without training.lora.")
    state = network.adapter.state_dict()
    pipeline_type.save_lora_weights(
        save_directory=str(folder),
        transformer_lora_layers={name: value.cpu().contiguous() for name, value in state.items()},
        transformer_lora_adapter_metadata=network.base.peft_config.to_dict(),
    )


def _inject(
    module: nn.Module, settings: LoraConfig, targets: Sequence[str], names: Sequence[str]
) -> Any:
    import peft

    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(targets),
        lora_dropout=0.0,
        bias="none",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # as is meant
        for name in names:
            # Low memory means that peft draws no numbers which ours would replace.
            peft.inject_adapter_in_model(config, module, adapter_name=name, low_cpu_mem_usage=True)
    return config


def _is_adapters(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _is_adaptable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _is_linear(module: nn.Module) -> bool:
    return not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1)


def _ends_with(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


def _role_name(name: str) -> str:
    """A layer's name within its block: the part after the last block number."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts[:-1]) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :]) if numbers else name
