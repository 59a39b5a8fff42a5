from __future__ import annotations

import signal

import pytest

from workbench.runs.signals import stop_on_signals


def test_programs_repeat_themselves_and_people_insist() -> None:
    """A cluster and a launcher each send SIGTERM: the run must still write its checkpoint."""
    with stop_on_signals() as stop:
        assert not stop.requested
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
