"""README keeps its promises: the twenty lines run, and every command it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from workbench.flow import euler, uniform_times

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_bring_your_own_teacher() -> None:
    """The student of the README's own code is nearer to the ring than the teacher at 4 steps."""
    code = next(block for block in BLOCKS if "distill(" in block)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code, names)
    teacher, samples = names["teacher"], names["samples"]
    assert samples.shape == (1000, 2)
    off_ring = (samples.norm(dim=1) - 1).abs().mean()
    noise = torch.randn(1000, 2)
    drawn = euler(lambda x, t: teacher.velocity(x, t, None), noise, uniform_times(4))
    assert off_ring < 0.75 * (drawn.norm(dim=1) - 1).abs().mean()
    quadrants = torch.stack(
        [
            (samples.sign() == torch.tensor(q)).all(1).float().mean()
            for q in ([1, 1], [1, -1], [-1, 1], [-1, -1])
        ]
    )
    assert quadrants.min() > 0.15


def test_adding_an_experiment(tmp_path: Path, monkeypatch) -> None:
    from workbench.registry import get_experiment

    code, space = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 10
    (tmp_path / "alpha.toml").write_text(f"{code}\n{space}")
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(tmp_path))
    experiment = get_experiment("alpha")
    assert experiment.variant("high-1.2").method.sid_alpha == 1.2
    assert experiment.variant("high-1.2").variant == "high-1.2"
    searched = {"training.optimizers.generator.lr", "method.name", "method.sid_alpha"}
    assert set(experiment.space) == searched


def test_named_commands_exist() -> None:
    from typer.main import get_command

    from workbench.cli.main import app

    known = get_command(app).commands
    named = set(re.findall(r"`workbench (\w+)", README))
    assert named
    assert named <= set(known)
