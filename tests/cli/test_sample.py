"""workbench sample: seeds, files and what they say about themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import InsideWorkbench

PROMPTS = ("the digit 7", "a handwritten two", "zero written by hand")


def drawn(workbench: InsideWorkbench, folder: Path, *more: str) -> np.ndarray:
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    arguments = ("--files", "--format", "npy", "--out", str(folder))
    workbench("sample", "quickstart", *prompts, *arguments, *more)
    return np.stack([np.load(file) for file in sorted(folder.iterdir())])


def test_an_image_depends_on_prompt_and_seed_not_on_its_batch(
    inside_finished: InsideWorkbench, tmp_path: Path
) -> None:
    together = drawn(inside_finished, tmp_path / "a", "--batch-size", "3")
    alone = drawn(inside_finished, tmp_path / "b", "--batch-size", "1")
    shifted = drawn(inside_finished, tmp_path / "c", "--seed", "1")
    assert together.shape == (3, 32, 32, 3)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together - shifted).max() > 0.05
    one = ("--prompt", PROMPTS[2], "--seed", "2", "--files", "--format", "npy")
    inside_finished("sample", "quickstart", *one, "--out", str(tmp_path / "d"))
    (file,) = (tmp_path / "d").iterdir()
    np.testing.assert_allclose(np.load(file), together[2], atol=1e-5)


def test_noise_and_steps_matter_and_another_noise_is_told(
    inside_finished: InsideWorkbench, tmp_path: Path
) -> None:
    own = drawn(inside_finished, tmp_path / "own")
    for number, more in enumerate((("--noise", "ddim"), ("--noise", "fixed"), ("--steps", "2"))):
        assert np.abs(drawn(inside_finished, tmp_path / str(number), *more) - own).max() > 1e-3
    told = inside_finished(
        "sample", "quickstart", "--noise", "ddim", "--out", str(tmp_path / "g.png")
    )
    assert "was trained with fresh noise, not with ddim" in told.stderr
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.text["noise"] == "ddim (trained with fresh)"


def test_a_png_tells_how_it_was_made(inside_finished: InsideWorkbench, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("the digit 4\nдевять\n", encoding="utf-8")
    out = tmp_path / "out"
    arguments = ("sample", "quickstart", "--prompts", str(file), "--seed", "3", "--files")
    result = inside_finished.json(*arguments, "--out", str(out))
    assert result["files"] == [str(out / "0000-seed3.png"), str(out / "0001-seed4.png")]
    (run,) = (path.parent for path in inside_finished.workspace.glob("runs/*/*/config.json"))
    for path, prompt, seed in zip(result["files"], result["prompts"], ("3", "4"), strict=True):
        with Image.open(path) as picture:
            said = picture.text
            assert picture.size == (32, 32)
        assert said["prompt"] == prompt
        assert said["seed"] == seed
        assert said["run"] == f"{run.parent.name}/{run.name}"
        assert said["steps"] == "4"
        assert said["noise"] == "fresh"
        assert said["kimg"] == "1.6"
        assert said["command"].startswith("workbench sample quickstart --prompts")
        assert len(said["weights"]) == 16
        assert str(inside_finished.teacher) in said["teacher"]
        assert said["workbench"]


def test_a_grid_holds_every_prompt(inside_finished: InsideWorkbench, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "grid.png"
    inside_finished("sample", "quickstart", "--prompt", "a", "--prompt", "b", "--out", str(out))
    with Image.open(out) as picture:
        assert picture.text["prompt"] == "a\nb"
        assert picture.width > 2 * 96


def test_a_teacher_draws_from_seeds_too(inside_finished: InsideWorkbench, tmp_path: Path) -> None:
    teacher = str(inside_finished.teacher)
    out = ("--files", "--out", str(tmp_path / "out"), "--prompt", "the digit 1")
    inside_finished("sample", teacher, "--steps", "3", "--cfg-scale", "2", *out)
    with Image.open(tmp_path / "out" / "0000-seed0.png") as picture:
        assert picture.text["cfg_scale"] == "2"
        assert "run" not in picture.text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--prompt", " "), "Prompt 1 of 1 is empty."),
        (("--prompts", "EMPTY.txt"), "holds no prompts"),
        (("--prompts", "LATIN.txt"), "line 1 is not UTF-8"),
        (("--prompts", "NONE.txt"), "There is no prompt file"),
        (("--prompts", "digits"), "expected a .txt, .jsonl or .parquet file"),
        (("--steps", "5"), "was trained with 4 steps, not with 5."),
        (
            ("--noise", "fres"),
            "'fixed', 'ddim'. Did you mean 'fresh'?",
        ),
        (("--cfg-scale", "2"), "guidance was distilled into it"),
        (("--format", "npy"), "add --files"),
        (("--files", "--format", "jpg"), "'jpg' is not one of 'png', 'npy'. Did you mean 'png'?"),
        (("--files", "--out", "EMPTY.txt"), "is a file; with --files it must be a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_requests_are_one_line(
    inside_finished: InsideWorkbench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("EMPTY.txt").write_text("\n \n")
    Path("LATIN.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    refused = inside_finished("sample", "quickstart", *arguments, code=2)
    assert line in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_a_teacher_has_no_noise_type(inside_finished: InsideWorkbench) -> None:
    teacher = str(inside_finished.teacher)
    refused = inside_finished("sample", teacher, "--prompt", "7", "--noise", "ddim", code=2)
    assert "is a teacher: its Euler steps have no noise type" in refused.stderr
