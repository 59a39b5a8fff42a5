from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.analysis.conftest import script_of
from workbench.errors import RequestError
from workbench.evaluation.grids import NotFiniteError, image_grid, to_pixels, wrap_words
from workbench.plotting import save_figure
from workbench.reports.figures import samples
from workbench.workspace import open_workspace

PROMPTS = ["a handwritten three", "the digit 7", "number one in white ink"]


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return {name: rng.random((3, 3, 16, 16)).astype("float32") for name in ("teacher", "student")}


def test_pixels_round_to_nearest_and_clip():
    values = torch.tensor([-0.2, 0.0, 0.5 / 255 - 1e-4, 0.5 / 255 + 1e-4, 1.0, 1.2])
    images = values.view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_pixels(images)[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]
    with pytest.raises(RequestError, match="shape"):
        to_pixels(images[:, :1])
    with pytest.raises(NotFiniteError, match="not finite") as found:
        to_pixels(images * torch.nan)
    assert not isinstance(found.value, RequestError)  # nobody asked for it


def test_picture_holds_every_image_in_its_place(rows):
    picture = np.asarray(image_grid(rows, PROMPTS, size=64))
    found = []
    for images in rows.values():
        for image in to_pixels(images):
            enlarged = image.repeat(4, axis=0).repeat(4, axis=1)
            windows = np.lib.stride_tricks.sliding_window_view(picture, (64, 64, 3))[:, :, 0]
            corner = np.all(windows[:, :, 0, 0] == enlarged[0, 0], axis=-1)
            found += [(y, x) for y, x in np.argwhere(corner) if np.all(windows[y, x] == enlarged)]
    assert len(found) == 6
    assert len({y for y, _ in found[:3]}) == 1
    assert found[0][0] < found[3][0]
    assert [x for _, x in found[:3]] == [x for _, x in found[3:]] == sorted(x for _, x in found[:3])
    captions = picture[: found[0][0]], picture[:, : found[0][1]]
    assert all((part < 100).any() for part in captions)


def test_picture_without_prompts_and_of_tensors(rows):
    bare = image_grid({"a": torch.from_numpy(rows["teacher"])}, size=32, resample="lanczos")
    assert bare.size[1] < image_grid({"a": rows["teacher"]}, PROMPTS, size=32).size[1]
    with pytest.raises(RequestError, match="Did you mean 'lanczos'"):
        image_grid(rows, resample="lancos")


@pytest.mark.parametrize("draw", ["picture", "figure"])
def test_a_grid_that_does_not_fit_is_refused(rows, draw):
    plot = image_grid if draw == "picture" else samples.plot
    with pytest.raises(RequestError, match="3 columns has 2 prompts"):
        plot(rows, PROMPTS[:2])
    with pytest.raises(RequestError, match="rows of equal length"):
        plot({**rows, "short": rows["teacher"][:2]}, PROMPTS)
    with pytest.raises(RequestError, match="rows of equal length"):
        plot({}, [])


def test_words_wrap_and_only_a_word_too_long_is_shortened():
    assert wrap_words("a bb ccc dd", 5, len) == ["a bb", "ccc", "dd"]
    assert wrap_words("a longest b", 5, len) == ["a", "long…", "b"]
    assert wrap_words("", 5, len) == []


def test_figure_shows_the_arrays_with_captions_inside_the_page(rows, tmp_path):
    figure = samples.plot(rows, PROMPTS)
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    expected = [image for images in rows.values() for image in to_pixels(images)]
    assert len(shown) == 6
    for one, other in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    texts = [text.get_text().replace("\n", " ") for text in figure.texts]
    assert texts == ["teacher", "student", *PROMPTS]
    figure.draw_without_rendering()
    page = figure.bbox
    for text in figure.texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1 + 1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1 + 1
        assert text.get_fontsize() >= 7
    again = save_figure(samples.plot(rows, PROMPTS), tmp_path / "again")
    for one, other in zip(save_figure(figure, tmp_path / "one"), again, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_command(rows, tmp_path, capsys):
    for name, images in rows.items():
        np.savez(tmp_path / f"{name}.npz", images=images, prompts=np.array(PROMPTS))
    files = [f"{name}={tmp_path / name}.npz" for name in rows]
    arguments = [*files, "--out", str(tmp_path / "grid"), "--format", "svg"]
    assert script_of("samples").main(arguments) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "grid.svg")]
    (tmp_path / "teacher.npz").write_bytes(b"PK cut short")
    with pytest.raises(SystemExit) as ended:
        script_of("samples").main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_either_models_or_files(tmp_path, capsys):
    for arguments in ([], ["--model", "a", "b=c.npz"]):
        with pytest.raises(SystemExit) as ended:
            script_of("samples").main([*arguments, "--workspace", str(tmp_path / "w")])
        assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_files_take_no_option_of_drawing_and_no_caption_twice(rows, tmp_path, capsys):
    file = tmp_path / "a.npz"
    np.savez(file, images=rows["teacher"], prompts=np.array(PROMPTS))
    for more, told in (
        (["--seed", "0"], "--seed is of what"),
        (["--prompt", "the digit 7"], "--prompt is of what"),
        (["--no-teacher"], "--no-teacher is of what"),
        ([f"a={file}"], "Two files are called 'a'"),
    ):
        with pytest.raises(SystemExit) as ended:
            script_of("samples").main([f"a={file}", *more, "--out", str(tmp_path / "grid")])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("grid*"))


def test_models_are_drawn_by_the_command(digits_teacher_dir, tmp_path, capsys):
    models = [f"few={digits_teacher_dir}:2", f"one={digits_teacher_dir}:1"]
    arguments = ["--model", *models, "--prompt", *PROMPTS[:2], "--format", "png", "--csv"]
    where = ["--workspace", str(open_workspace(tmp_path / "w").root), "--out"]
    files = []
    for name in ("a", "b"):
        assert script_of("samples").main([*arguments, *where, str(tmp_path / name)]) == 0
        files.append([Path(path) for path in capsys.readouterr().out.split()])
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    frame = pd.read_csv(files[0][1])
    assert frame["caption"].tolist() == ["few", "few", "one", "one"]
    assert frame["prompt"].tolist() == PROMPTS[:2] * 2
    assert frame["sha256"].nunique() == 4
