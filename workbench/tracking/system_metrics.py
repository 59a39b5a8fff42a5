"""What the machine does meanwhile, read by MLflow's own probes.

MLflow's public switch for them serves only runs of its fluent interface, writes past the journal
and ends for good when the server does not answer once. Here their samples go into the run's
journal, so an outage loses none and a resumed run goes on counting.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from workbench.tracking.base import SYSTEM
from workbench.tracking.store import import_mlflow

LOG = logging.getLogger(__name__)


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
        probes: list[Any] | None = None
        while not self._stop.wait(self._interval):
            # Only now: a run that ends at once need not wait for MLflow to be imported.
            probes = _probes() if probes is None else probes
            sample: dict[str, float] = {}
            for probe in list(probes):
                try:
                    probe.collect_metrics()
                    sample |= probe.aggregate_metrics()
                    probe.clear_metrics()
                except Exception as error:
                    # A strange machine (no /proc, no counters) must not end a training run.
                    LOG.warning("%s stops: %s.", type(probe).__name__, error)
                    probes.remove(probe)
            if sample:
                self._emit({SYSTEM + key: value for key, value in sample.items()}, self._step)
                self._step += 1


def _probes() -> list[Any]:
    import_mlflow()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    # A card that keeps one of its counters to itself would be complained of at every sample.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    found = []
    for probe in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
        try:
            found.append(probe())
        except Exception as error:
            LOG.debug("%s finds nothing to read: %s", probe.__name__, error)
    return found
