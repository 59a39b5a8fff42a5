"""What the machine does meanwhile, under the names MLflow's own monitor uses.

MLflow's monitor asks the server before every sample and stops for good when it does not answer;
this one writes into the run's journal, so an outage loses nothing.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

LOG = logging.getLogger(__name__)

PREFIX = "system/"


class SystemSampler:
    """A thread that emits one sample every ``interval`` seconds with a growing step.

    The step counts samples, not images, so that a run's system curve continues over a resume.
    """

    def __init__(
        self,
        emit: Callable[[Mapping[str, float], int], None],
        first_step: int,
        interval: float,
    ) -> None:
        self._emit = emit
        self._step = first_step
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No sample comes after this returns."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            probe = SystemProbe()
            while not self._stop.wait(self._interval):
                self._emit({PREFIX + key: value for key, value in probe.read().items()}, self._step)
                self._step += 1
        except Exception as error:
            # A strange machine (no /proc, no counters) must not end a training run.
            LOG.warning("System metrics stop here: %s: %s.", type(error).__name__, error)


class SystemProbe:
    """Reads processor, memory, disk, network and, where nvidia-ml-py is installed, GPUs."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._network = psutil.net_io_counters()
        self._gpus = _gpu_handles()
        psutil.cpu_percent()  # The first call has nothing to compare with and returns 0.

    def read(self) -> dict[str, float]:
        """One sample. Megabytes are 10**6 bytes; the network counts from the probe's start."""
        memory = self._psutil.virtual_memory()
        disk = self._psutil.disk_usage(os.sep)
        sample = {
            "cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
        }
        network = self._psutil.net_io_counters()
        if network is not None and self._network is not None:
            received = network.bytes_recv - self._network.bytes_recv
            sent = network.bytes_sent - self._network.bytes_sent
            sample["network_receive_megabytes"] = received / 1e6
            sample["network_transmit_megabytes"] = sent / 1e6
        return {key: round(value, 3) for key, value in (sample | self._read_gpus()).items()}

    def _read_gpus(self) -> dict[str, float]:
        if not self._gpus:
            return {}
        nvml = importlib.import_module("pynvml")
        sample: dict[str, float] = {}
        for index, handle in enumerate(self._gpus):
            name = f"gpu_{index}"
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                sample[f"{name}_memory_usage_percentage"] = memory.used / memory.total * 100
                sample[f"{name}_memory_usage_megabytes"] = memory.used / 1e6
                rates = nvml.nvmlDeviceGetUtilizationRates(handle)
                sample[f"{name}_utilization_percentage"] = rates.gpu
                power = nvml.nvmlDeviceGetPowerUsage(handle)
                limit = nvml.nvmlDeviceGetEnforcedPowerLimit(handle)
                sample[f"{name}_power_usage_watts"] = power / 1000
                sample[f"{name}_power_usage_percentage"] = power / limit * 100
            except nvml.NVMLError as error:
                LOG.debug("GPU %d does not tell everything: %s", index, error)
        return sample


def _gpu_handles() -> list[Any]:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        LOG.debug("No GPU metrics: %s", error)
        return []
