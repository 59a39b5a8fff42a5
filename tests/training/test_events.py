"""Listeners: every event reaches every member, in order."""

from __future__ import annotations

import inspect

import pytest

from workbench.training.events import Listener, Listeners

EVENTS = [name for name in vars(Listener) if name.startswith("on_")]


@pytest.mark.parametrize("event", EVENTS)
def test_each_member_gets_every_event_in_turn(event: str) -> None:
    heard: list[tuple[str, tuple[object, ...]]] = []
    members = (Listener(), Listener())
    for name, member in zip("ab", members, strict=True):
        setattr(member, event, lambda *told, name=name: heard.append((name, told)))
    count = len(inspect.signature(getattr(Listener, event)).parameters) - 1
    told = tuple(range(count))
    getattr(Listeners(*members), event)(*told)
    assert heard == [("a", told), ("b", told)]
