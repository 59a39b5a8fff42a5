"""Things by name: the error tells the nearest, and no name is taken twice."""

from __future__ import annotations

import pytest

from workbench.errors import RequestError
from workbench.lookup import Lookup


def test_an_unknown_name_tells_the_nearest_wherever_it_is_asked_for() -> None:
    colors = Lookup("color", {"red": 1, "green": 2})
    assert (colors["red"], colors.check("green"), colors.get("rad")) == (1, "green", None)
    for ask in (colors.__getitem__, colors.check):
        with pytest.raises(RequestError, match="Did you mean 'red'"):
            ask("rad")
    assert "rad" not in colors


def test_the_same_thing_may_be_registered_again_and_no_other_under_its_name() -> None:
    thing = object()
    things = Lookup("thing", {"mine": thing})
    things.register("mine", thing)
    with pytest.raises(RequestError, match="A thing named 'mine' is already registered"):
        things.register("mine", object())
