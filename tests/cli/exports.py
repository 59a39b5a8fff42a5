"""Runs that are exported and then drawn by a process without workbench, for several test files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Workbench
from tests.conftest import SMALL_RECIPES
from workbench.cli.main import run_cli

PROMPT = "the digit 7"
SEEDS = (5, 6)
BRIEF = (
    "training.kimg=0.064",
    "training.batch_size=16",
    "training.ema_halflife_kimg=0",
    "training.optimizers.generator.lr=0.01",
    "schedule.evaluate_kimg=1",
    "schedule.checkpoint_kimg=0.032",
    "evaluation.samples=20",
    "evaluation.teacher_steps=[1]",
    "evaluation.student_steps=[4]",
)


def guidance(teacher: str) -> tuple[str, ...]:
    """Another guidance than the default, where the tests' teacher takes one as an input."""
    takes_one = any(kind in teacher for kind in ("SanaSprintPipeline", "FluxPipeline"))
    return ("generator.distilled_guidance=2.5",) if takes_one else ()


LORA = 'training.lora={"rank":4,"scale":2}'
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "SanaPipeline": ("generator.flow_shift=3",),
    "SanaSprintPipeline": ("method.name=kd",),  # which makes a student of noise type ddim
    "StableDiffusion3Pipeline": (LORA, "method.name=dmd2", "data.source=digits"),
    "FluxPipeline": (
        "method.name=scm",
        "data.source=digits",
        "method.tangent_warmup_kimg=0.016",
    ),
}
"""By family. Fresh noise unless said; together the families cover each kind of export."""

TRAJECTORY = "SanaSprintPipeline"
ALL_STEPS = (TRAJECTORY, "meanflow")
"""Students that make samples only after all their steps."""

WITHOUT_TORCHVISION = 'import sys; sys.modules["torchvision"] = None\n'
"""As where it is not installed, and as the cards say to begin where it does not import."""

DRAW = """
import json, pathlib, sys
import numpy as np, torch
import diffusers

torch.set_num_threads(1)
root, prompt, seeds = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name in sys.argv[4:]:
    folder = f"{root}/{name}"
    (module,) = pathlib.Path(folder).glob("*_student.py")
    plain = {"custom_pipeline": module.stem, "trust_remote_code": True}
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **plain)
    kind = type(pipe).__bases__[0]
    stock = kind.from_pretrained(folder)
    call = json.load(open(f"{folder}/student.json"))["call"]
    calls, told = [], []

    def draw(pipe, seed, generator=None, **arguments):
        torch.manual_seed(seed)
        pipe.set_progress_bar_config(disable=True)
        return pipe(prompt, generator=generator, output_type="np", **arguments).images[0]

    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    images = {"plain": np.stack([draw(pipe, seed) for seed in seeds])}
    plain_calls = len(calls)
    images["generated"] = draw(pipe, 99, torch.Generator().manual_seed(seeds[0]))[None]
    images["stock"] = np.stack([draw(stock, seed, **call) for seed in seeds])
    for steps in range(7):
        calls.clear()
        try:
            images[str(steps)] = draw(pipe, seeds[0], num_inference_steps=steps)[None]
            told.append(len(calls))
        except ValueError as refusal:
            told.append(str(refusal))
    images["plain again"] = draw(pipe, seeds[0])[None]
    pipe.save_pretrained(f"{folder}-again")
    again = diffusers.DiffusionPipeline.from_pretrained(f"{folder}-again", **plain)
    images["saved again"] = draw(again, seeds[0])[None]
    half = {"dtype": torch.bfloat16}  # a saved copy opens as the stock class too
    for kept, own, asked in (("own", plain, {}), ("stock", {}, call)):
        opened = diffusers.DiffusionPipeline.from_pretrained(f"{folder}-again", **own, **half)
        images[f"half {kept}"] = draw(opened, seeds[0], **asked)[None]
    np.savez(f"{root}/{name}.npz", **images)
    facts = [kind.__name__, type(stock) is kind, plain_calls, told, "workbench" in sys.modules]
    print(json.dumps([name, *facts]))
"""


def without_workbench(
    code: str, *arguments: str, where: Path, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """A process that finds no workbench on its path, not even beside itself."""
    return subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_TORCHVISION + code, *arguments],
        cwd=where,
        env={**os.environ, "HF_MODULES_CACHE": str(where / "modules"), "HF_HUB_OFFLINE": "1"},
        input=given,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


class Quiet(Workbench):
    """Commands in this process, for fixtures of a whole module."""

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        out, error = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
        ):
            patch.setenv("WORKBENCH_WORKSPACE", str(self.workspace))
            patch.setattr(sys, "argv", ["workbench", *arguments])
            try:
                run_cli()
                ended = 0
            except SystemExit as end:
                ended = end.code if isinstance(end.code, int) else 0
        assert ended == code, out.getvalue() + error.getvalue()
        return subprocess.CompletedProcess(arguments, ended, out.getvalue(), error.getvalue())

    def brief(self, name: str, *settings: str, teacher: Path | None = None) -> list[str]:
        where = str(teacher or self.teacher)
        wanted = dict(text.split("=", 1) for text in (*BRIEF, *guidance(where), *settings))
        assignments = [part for key in wanted for part in ("--set", f"{key}={wanted[key]}")]
        run = ["run", "quickstart", "--teacher", where, "--recipe", "digits"]
        run += ["--set", f"experiment={name}"]
        return [*run, *assignments]


@dataclass
class Exports:
    """A student of every family, exported; ``root / name`` is its folder."""

    workbench: Quiet
    root: Path
    folders: Callable[[str], Path]
    _sampled: dict[tuple[str, int], Any] = field(default_factory=dict)

    def sampled(self, name: str, steps: int = 4) -> Any:
        """Float images of ``workbench sample`` on the run, drawn once."""
        if (name, steps) not in self._sampled:
            out = self.root / "sampled"
            shutil.rmtree(out, ignore_errors=True)
            prompts = [part for _ in SEEDS for part in ("--prompt", PROMPT)]
            files = ("--files", "--format", "npy", "--out", str(out), "--seed", str(SEEDS[0]))
            told = () if steps == 4 else ("--steps", str(steps))
            self.workbench("sample", name, *prompts, *files, *told)
            images = [np.load(file) for file in sorted(out.iterdir())]
            self._sampled[name, steps] = np.stack(images)
        return self._sampled[name, steps]

    def learnt_from(self, name: str) -> list[str]:
        """Which of prompts and pairs a run's results name."""
        (file,) = self.workbench.workspace.glob(f"runs/{name}/*/results.json")
        results = json.loads(file.read_text())
        return [key for key in ("prompts", "pairs") if results[key] is not None]


@dataclass(frozen=True)
class Drawn:
    """What a process without workbench made of one folder."""

    stock: str
    stock_opens_as_itself: bool
    plain_calls: int
    told: list[int | str]
    imported_workbench: bool
    images: Mapping[str, Any]


def draw(exports: Exports, names: Sequence[str]) -> Mapping[str, Drawn]:
    """All of them in one process."""
    arguments = [str(exports.root), PROMPT, json.dumps(SEEDS), *names]
    process = without_workbench(DRAW, *arguments, where=exports.root)
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("[")]
    return {name: Drawn(*facts, np.load(exports.root / f"{name}.npz")) for name, *facts in rows}


def assert_plain_call(exports: Exports, drawn: Mapping[str, Drawn], name: str) -> None:
    """Of the folder's own class, and of the stock one where it is told everything."""
    found = drawn[name]
    assert not found.imported_workbench
    own = name in SMALL_RECIPES and name != "SanaSprintPipeline"
    assert found.stock == (name if own else "SanaPipeline")
    assert found.stock_opens_as_itself
    assert found.plain_calls == 4 * len(SEEDS)
    plain = found.images["plain"]
    assert np.abs(plain[0] - plain[1]).max() > 0.01
    expected = exports.sampled(f"{name}/")
    for images in (plain, found.images["stock"], exports.sampled(str(exports.root / name))):
        np.testing.assert_allclose(images, expected, atol=1e-4, rtol=0)
    for one in ("generated", "plain again", "saved again"):
        np.testing.assert_allclose(found.images[one], expected[:1], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(found.images["half own"], found.images["half stock"])


def assert_step_counts(exports: Exports, drawn: Mapping[str, Drawn], name: str) -> None:
    """Each that the student has draws its images, all others are refused."""
    counts = (4,) if name in ALL_STEPS else (1, 2, 3, 4)
    span = "4" if len(counts) == 1 else "1 to 4"
    for steps, told in enumerate(drawn[name].told):
        if steps in counts:
            assert told == steps, "calls of the transformer"
            expected = exports.sampled(f"{name}/", steps)[:1]
            images = drawn[name].images[str(steps)]
            np.testing.assert_allclose(images, expected, atol=1e-4, rtol=0)
        else:
            refusal = f"This student has {span} steps; num_inference_steps={steps} is none of them."
            assert told == refusal
