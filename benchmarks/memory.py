"""Prints the table of docs/gpu.md: what distilling each hub teacher takes on every rank.

    .venv/bin/python benchmarks/memory.py [TEACHER ...]

Nothing is allocated; a row takes half a minute at most. tests/training/test_memory.py compares some
rows with the stored table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workbench.teachers.architecture import Architecture
from workbench.teachers.hub_catalog import HUB_TEACHERS, HubTeacher, find_hub_teacher
from workbench.training.config import RunConfig
from workbench.training.memory import Estimate, estimate_memory
from workbench.training.overrides import with_overrides

COLUMNS = ("teacher", "students", "moments", "average", "buffers", "gradients", "activations")
SETTINGS = (
    "training.precision=bf16-mixed",
    "evaluation.precision=bf16",
    "training.gradient_checkpointing=true",
    "training.micro_batch_size=1",
)
FULL, LORA = "full", "LoRA 64"
_TRAINED = {FULL: (), LORA: ('training.lora={"rank": 64}',)}
_NODE = 8  # ranks that share one copy of the weights
_MOST_ON_ONE = 3e9  # weights: full copies of more are far from fitting into one GPU
_ASKED = "flux.1-dev-512"  # when to reduce gradients decides whether its copies fit


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        micro_batches: of one sample, that a gradient is accumulated over on each rank.
        every: whether gradients are reduced at each of them.
    """

    teacher: HubTeacher
    trained: str
    ranks: int
    micro_batches: int = 1
    every: bool = False

    @property
    def note(self) -> str:
        if self.micro_batches == 1:
            return self.trained
        return f"{self.trained}, reduced at {'every' if self.every else 'the last'} micro-batch"

    def estimate(self) -> Estimate:
        settings = [*SETTINGS, *_TRAINED[self.trained]]
        settings.append(f"training.batch_size={self.ranks * self.micro_batches}")
        settings.append(f"training.shards={min(self.ranks, _NODE)}")
        settings.append(f"training.sync_every_micro_batch={str(self.every).lower()}")
        config = with_overrides(RunConfig(), settings)
        held = 4 * self.teacher.vae_parameters
        return estimate_memory(Architecture.of(self.teacher), config, self.ranks, held)

    def text(self) -> str:
        estimate = self.estimate()
        sizes = [estimate.parts[column] for column in (*COLUMNS, "held")]
        cells = [f"{size / 2**30:.2f}" for size in (*sizes, estimate.total)]
        return f"| `{self.teacher.name}` | {self.note} | {self.ranks} | {' | '.join(cells)} |"


def rows_of(teacher: HubTeacher) -> Iterator[Row]:
    for trained in _TRAINED:
        for ranks in (1, _NODE):
            if trained == LORA or ranks > 1 or teacher.parameters < _MOST_ON_ONE:
                yield Row(teacher, trained, ranks)
    if teacher.name == _ASKED:
        yield Row(teacher, FULL, _NODE, micro_batches=2, every=True)
        yield Row(teacher, FULL, _NODE, micro_batches=2)


def heading() -> str:
    names = ("teacher", "trained", "ranks", "frozen", *COLUMNS[1:], "autoencoder", "total")
    return f"| {' | '.join(names)} |\n|---|---|{'---:|' * (len(names) - 2)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [teacher.name for teacher in HUB_TEACHERS]
    parser.add_argument("teachers", nargs="*", metavar="TEACHER", help=", ".join(names))
    wanted = parser.parse_args().teachers or names
    print(heading())
    for name in wanted:
        teacher = find_hub_teacher(name)
        if teacher is None:
            parser.error(f"no hub teacher {name!r}; there are {', '.join(names)}")
        for row in rows_of(teacher):
            print(row.text(), flush=True)


if __name__ == "__main__":
    main()
