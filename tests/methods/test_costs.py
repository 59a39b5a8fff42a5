"""What docs/methods.md says that each method costs, against the counters of its networks."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from tests.helpers import EMPTY, labels
from tests.methods.test_adversarial import COUNT, FixedPairs, Tokens
from workbench.flow import NoiseSource
from workbench.methods import METHODS, Batch, GeneratorConfig, Networks, make_method, method_type
from workbench.teachers.base import OwnVelocity

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
LATE = 10**9
"""Images after which every warm-up is over."""


def documented() -> dict[str, tuple[str, str, str, str]]:
    """Method -> (needs pairs, forward, backward, n) as the page's table has them."""
    rows = [
        line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| `")
    ][1:]
    cells = [[cell.strip().strip("`") for cell in row] for row in rows]
    return {row[0]: (row[2], row[4], row[5], row[6]) for row in cells if len(row) == 7}


def value(formula: str, k: int, n: int) -> int:
    """ "nk + 2n + 3" at k and n."""
    letters = {"k": k, "n": n}
    terms = (re.findall(r"\d+|[kn]", term) for term in formula.split("+"))
    return sum(math.prod(letters.get(part) or int(part) for part in term) for term in terms)


def test_every_method_is_documented() -> None:
    assert documented().keys() == METHODS.keys()


@pytest.mark.parametrize("updates", [None, 1, 3])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("name", METHODS)
def test_cost(name: str, k: int, updates: int | None) -> None:
    """Also of a score distillation that is told how often to update its fake score."""
    needs_pairs, forward, backward, usual = documented()[name]
    if not usual and updates:
        pytest.skip("it has no fake score")
    config = METHODS[name](**({"fake_score_updates": updates} if updates else {}))
    n = updates or int(usual or 0)
    kind = method_type(config)
    networks = [OwnVelocity(Tokens(seed)) for seed in range(1 + len(kind.roles))]
    trained = dict(zip(kind.roles, networks[1:], strict=True))
    heads = {head: make(networks[0]) for head, make in kind.heads.items()}
    held = Networks(networks[0], trained, EMPTY, heads)
    cpu = torch.device("cpu")
    batch = Batch(0, COUNT, labels(COUNT), k, NoiseSource(4), (2, 3), cpu, FixedPairs())
    networks[0].requires_grad_(False)
    method = make_method(config, GeneratorConfig(noise=kind.noise_types[0]))
    for phase in method.phases(LATE):
        for role, network in trained.items():
            network.requires_grad_(role in phase.roles)
        phase.loss(held, batch).value.backward()
    assert needs_pairs == ("yes" if kind.needs_pairs else "no")
    assert sum(n.evaluations for n in networks) == COUNT * value(forward, k, n)
    assert sum(n.backward_evaluations for n in networks) == COUNT * value(backward, k, n)
