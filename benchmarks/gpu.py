"""What training costs on one GPU of 80 GB or more, in at most eight minutes.

    python benchmarks/gpu.py [--minutes 8] [--json FILE] [--cases sana]
    python benchmarks/gpu.py --tiny          # the same code on tiny shapes, on the CPU

Networks of true width with random weights, bf16-mixed, gradient checkpointing, micro-batches, full
copies, no guidance. A round is an iteration with each of k = 1, 2, 3, 4. For every case: images a
second, the share of the card's bf16 peak (MFU: without what checkpointing computes again), peak
memory beside what ``training.memory`` foretells, what normal numbers, prompts (gathered and copied,
if nothing ran beside it) and reading every iteration's losses at once take of a round, and the same
images a second compiled, and of the published scripts' plan (:mod:`benchmarks.official_plan`, with
autocast over float32 weights and the teacher in bfloat16).

A case gets its part of the time that is left, and what it has no time for is told and left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.official import Ours, peak_bytes
from benchmarks.official_plan import OfficialPlan
from benchmarks.random_students import catalog_architecture, student_of
from workbench.teachers.architecture import Architecture
from workbench.training.config import RunConfig
from workbench.training.memory import estimate_memory
from workbench.training.overrides import with_overrides
from workbench.training.parallel import choose_device
from workbench.training.trainer import Trainer

Figures = dict[str, Any]
STEPS = (1, 2, 3, 4)
ESTIMATE_S = 90.0  # what is waited for an estimate that is not there yet

BF16_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 6000 Ada": 364e12,
}
"""Part of a card's name -> dense bf16 FLOP/s of its data sheet; the first that fits."""


@dataclass(frozen=True)
class Case:
    """A teacher of the catalog, changed or not, and a batch.

    Attributes:
        transformer: changes of the transformer's arguments.
        shapes: changes of the architecture's other attributes.
    """

    teacher: str
    batch: int
    micro: int
    transformer: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Any] = field(default_factory=dict)

    def architecture(self) -> Architecture:
        return catalog_architecture(self.teacher, self.transformer, **self.shapes)

    def config(self, *settings: str) -> RunConfig:
        own = (f"batch_size={self.batch}", f"micro_batch_size={self.micro}", "kimg=1e6")
        always = ("precision=bf16-mixed", "gradient_checkpointing=true")
        assigned = [f"training.{setting}" for setting in (*own, *always, *settings)]
        return with_overrides(RunConfig(), assigned)


CASES = {
    "SANA 0.6B, 512 px": Case("sana-0.6b-512", batch=64, micro=32),
    "SANA 1.6B, 512 px": Case("sana-1.6b-512", batch=32, micro=16),
    "SD3-Medium, 1024 px": Case("sd3-medium", batch=4, micro=1),
    "FLUX, 2 + 4 of 57 blocks, 1024 px": Case(
        "flux.1-dev-1024", 8, 2, {"num_layers": 2, "num_single_layers": 4}
    ),
}

_NARROW = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1}
_JOINT = {**_NARROW, "joint_attention_dim": 32, "pooled_projection_dim": 16}
_JOINT_SHAPES = {
    "latent_shape": (16, 8, 8),
    "conditioning": {"embeds": (8, 32), "pooled": (16,)},
}
_TINY_SANA = {
    **_NARROW,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": 32,
    "sample_size": 4,
}
_TINY_SANA_SHAPES = {
    "latent_shape": (32, 4, 4),
    "conditioning": {"embeds": (8, 32), "mask": (8,)},
}
TINY = {
    "SANA, tiny": Case("sana-0.6b-512", 4, 2, _TINY_SANA, _TINY_SANA_SHAPES),
    "SD3, tiny": Case(
        "sd3-medium",
        4,
        2,
        {**_JOINT, "caption_projection_dim": 32, "sample_size": 8, "pos_embed_max_size": 8},
        _JOINT_SHAPES,
    ),
    "FLUX, tiny": Case(
        "flux.1-dev-1024",
        4,
        2,
        {**_JOINT, "num_single_layers": 1, "axes_dims_rope": (4, 6, 6)},
        _JOINT_SHAPES,
    ),
}


class TimeUpError(Exception):
    """A case's part of the time is over."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeUpError inside once so much time has gone by."""

    def ring(*_: Any) -> None:
        raise TimeUpError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def free(device: torch.device) -> None:
    """Give back what a part has left."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of work whose end the host waits for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def a_round(plan: Ours | OfficialPlan, then: Callable[[], object] | None = None) -> None:
    for k in STEPS:
        plan.train_step(k)
        if then is not None:
            then()


def warmed_up(make: Callable[[], Ours | OfficialPlan], device: torch.device) -> tuple[Any, int]:
    """A plan after two iterations, and the peak of building it and going through them."""
    made: list[Ours | OfficialPlan] = []

    def build() -> None:
        made.append(make())
        made[0].train_step(2)
        made[0].train_step(2)

    peak = peak_bytes(build, device)
    return made.pop(), peak


@dataclass
class Bench:
    """Measures one case, part by part, into its figures."""

    case: Case
    device: torch.device
    figures: Figures

    def __post_init__(self) -> None:
        self.architecture = self.case.architecture()
        self.student = student_of(self.architecture, self.device)
        self.images = len(STEPS) * self.case.batch

    def ours(self) -> None:
        plan, peak = warmed_up(self._maker(), self.device)
        self.figures["peak_bytes"] = peak
        turns = [
            (
                seconds(lambda: a_round(plan), self.device),
                seconds(lambda: a_round(plan, plan.trainer.read_updates), self.device),
            )
            for _ in range(2)
        ]
        spent, read = (min(each) for each in zip(*turns, strict=True))
        self.figures["images_per_s"] = self.images / spent
        self.figures["sync_share"] = 1 - spent / read
        self._flops(plan.trainer, spent)
        self.figures["noise_share"] = self._noise(plan.trainer) / spent
        self.figures["text_share"] = self._text(plan.trainer) / spent

    def _maker(self, *settings: str) -> Callable[[], Ours]:
        return lambda: Ours(self.student, self.case.config(*settings), self.device)

    def _flops(self, trainer: Trainer, spent: float) -> None:
        """From a forward pass: a backward pass to weights counts two more, one to inputs one."""
        batch = trainer.batches.take(0, 1, [0])[0][0]
        x, t = batch.normal("flops"), torch.full((batch.count,), 0.5, device=self.device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            trainer.networks.teacher(x, t, batch.cond)
        forward = counter.get_total_flops() / batch.count
        # Two rollouts of k; fake score twice and teacher once more; two backward passes to weights
        # (fake score, generator) and two to inputs (both scores).
        passes = sum(2 * k + 3 + 2 * 2 + 2 * 1 for k in STEPS)
        rate = forward * passes * self.case.batch / spent
        self.figures["tflops_per_s"] = rate / 1e12
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        peak = next((peak for part, peak in BF16_PEAKS.items() if part in name), None)
        self.figures["mfu"] = rate / peak if peak else "unknown"

    def _noise(self, trainer: Trainer) -> float:
        """Seconds that a round's normal numbers take."""
        batch = trainer.batches.take(0, 1, [0])[0][0]
        draws = sum(2 * k + 2 for k in STEPS) * -(-self.case.batch // self.case.micro)
        batch.normal("warm-up")
        few = min(draws, 20)
        spent = seconds(lambda: [batch.normal(f"n{i}") for i in range(few)], self.device)
        return spent * draws / few

    def _text(self, trainer: Trainer) -> float:
        """Seconds that a round's prompts take."""

        def read() -> None:
            for place in range(len(STEPS)):
                trainer.batches._gather(place, 0).to(self.device)

        read()
        return seconds(read, self.device)

    def official(self) -> None:
        plan, peak = warmed_up(
            lambda: OfficialPlan(self.student, self.case.config(), self.device), self.device
        )
        self.figures["official_peak_bytes"] = peak
        spent = seconds(lambda: a_round(plan), self.device)
        self.figures["official_images_per_s"] = self.images / spent

    def compiled(self) -> None:
        plan = self._maker("compile=true")()
        began = time.perf_counter()
        plan.train_step(2)
        plan.train_step(1)
        self.figures["compile_s"] = time.perf_counter() - began
        spent = seconds(lambda: a_round(plan), self.device)
        self.figures["compiled_images_per_s"] = self.images / spent


FIGURES = {
    Bench.ours: (
        "images_per_s",
        "tflops_per_s",
        "mfu",
        "peak_bytes",
        "noise_share",
        "text_share",
        "sync_share",
    ),
    Bench.official: ("official_images_per_s", "official_peak_bytes"),
    Bench.compiled: ("compiled_images_per_s", "compile_s"),
}
"""Parts of a case in the order in which they are measured, and what each of them fills in."""


def measure(name: str, case: Case, device: torch.device, budget: float) -> Figures:
    """All figures of a case that its time allows."""
    figures: Figures = {"case": name, "batch": case.batch, "micro_batch": case.micro}
    until = time.monotonic() + budget
    bench = Bench(case, device, figures)
    figures["parameters"] = sum(value.numel() for value in bench.student.teacher.parameters())
    for part, names in FIGURES.items():
        why = "out of time"
        try:
            with at_most(until - time.monotonic()):
                part(bench)
        except TimeUpError:
            pass
        except torch.OutOfMemoryError:
            why = "out of memory"
        for each in names:
            figures.setdefault(each, why)
        if missing := [each for each in names if figures[each] == why]:
            print(f"{name}: {', '.join(missing)} {why}", file=sys.stderr, flush=True)
        free(device)
    return figures


def foretold(case: Case) -> int:
    """Bytes; in a process of its own, since it needs a process group of its own."""
    return estimate_memory(case.architecture(), case.config()).total


COLUMNS: dict[str, Callable[[Figures], str]] = {
    "case": lambda f: f["case"],
    "batch (micro)": lambda f: f"{f['batch']} ({f['micro_batch']})",
    "images/s": lambda f: _number(f["images_per_s"], ".2f"),
    "compiled": lambda f: _number(f["compiled_images_per_s"], ".2f"),
    "published plan": lambda f: _number(f["official_images_per_s"], ".2f"),
    "TFLOP/s": lambda f: _number(f["tflops_per_s"], ".3g"),
    "MFU": lambda f: _number(f["mfu"], ".1%"),
    "peak GB": lambda f: _number(f["peak_bytes"], ".1f", 1e9),
    "foretold": lambda f: _number(f["estimated_bytes"], ".1f", 1e9),
    "published plan's": lambda f: _number(f["official_peak_bytes"], ".1f", 1e9),
    "noise": lambda f: _number(f["noise_share"], ".1%"),
    "text": lambda f: _number(f["text_share"], ".1%"),
    "reading at once": lambda f: _number(f["sync_share"], ".1%"),
}


def _number(value: float | str, form: str, unit: float = 1.0) -> str:
    return value if isinstance(value, str) else format(value / unit, form)


def table(rows: list[Figures]) -> str:
    """Markdown."""
    head = [f"| {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
    return "\n".join(
        [*head, *(f"| {' | '.join(c(row) for c in COLUMNS.values())} |" for row in rows)]
    )


def run(cases: Mapping[str, Case], device: torch.device, minutes: float) -> list[Figures]:
    """The figures of each case; the memory is foretold meanwhile, in another process."""
    until, rows = time.monotonic() + 60 * minutes, []
    # What has used a GPU cannot be forked; elsewhere forking saves importing all again.
    kind = "spawn" if device.type == "cuda" else "fork"
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(kind))
    estimates = {name: pool.submit(foretold, case) for name, case in cases.items()}
    for place, (name, case) in enumerate(cases.items()):
        budget = (until - time.monotonic()) / (len(cases) - place)
        row = measure(name, case, device, budget)
        rows.append(row)
        try:
            wait = max(0.0, min(ESTIMATE_S, until - time.monotonic()))
            row["estimated_bytes"] = estimates[name].result(wait)
        except TimeoutError:
            row["estimated_bytes"] = "out of time"
        print(f"{name}: done", file=sys.stderr, flush=True)
    pool.shutdown(wait=False, cancel_futures=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, on the CPU, not compiled")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--cases", default="", help="only those whose name has this in it")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    options = parser.parse_args()
    device = torch.device("cpu") if options.tiny else choose_device()
    if not options.tiny and device.type == "cpu":
        print("There is no GPU here; --tiny runs the same on tiny shapes.", file=sys.stderr)
        sys.exit(2)
    if options.tiny:  # a compiler takes minutes on a CPU: what it is asked for is run as it is
        torch.compiler.set_stance("force_eager")
    every = TINY if options.tiny else CASES
    cases = {name: case for name, case in every.items() if options.cases in name}
    rows = run(cases, device, options.minutes)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n{table(rows)}")
    if options.json is not None:
        facts = {"device": name, "torch": torch.__version__, "cases": rows}
        options.json.write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
