"""Evaluations from the command line: runs, pipelines and folders, with references made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from tests.cli.conftest import ONLY_RUNS, InsideWorkbench
from workbench.data.bundled import BUNDLED, DIGITS
from workbench.scoring.pipelines import PipelineSource
from workbench.scoring.sources import Asked, open_source
from workbench.tracking import (
    default_uri,
    list_artifacts,
    list_runs,
    metric_history,
    tracking_dir,
)
from workbench.workspace import open_workspace

CPU = torch.device("cpu")

DIGITS_REFERENCE = ("--reference", "digits")


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real/ and fake/, 300 and 120 different digits as PNG, and a caption for each."""
    images, labels = DIGITS.images(32), DIGITS.labels
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    root = tmp_path_factory.mktemp("digits")
    for name, start, count in (("real", 0, 300), ("fake", 1000, 120)):
        (root / name).mkdir()
        captions = []
        for index in range(start, start + count):
            Image.fromarray(pixels[index]).save(root / name / f"{index:04d}.png")
            captions.append(DIGITS.prompts_of(int(labels[index]))[index % 6])
        (root / f"{name}.txt").write_text("\n".join(captions) + "\n")
    return root


@pytest.fixture
def referenced(prepared: InsideWorkbench, digit_files: Path) -> InsideWorkbench:
    """A workspace with the reference ``real``."""
    made = prepared(
        *("references", "build", "real", "--images", str(digit_files / "real")),
        *("--captions", str(digit_files / "real.txt"), "--network", "digits"),
        *("--resolution", "32"),
    )
    assert made.stdout.strip().endswith("references/real")
    return prepared


def test_a_folder_is_scored_against_a_reference_that_was_built(
    referenced: InsideWorkbench, digit_files: Path, evaluation_cache: Path
) -> None:
    from workbench.evaluation import FeatureStatistics, frechet_distance
    from workbench.evaluation.digits_classifier import load_or_train

    classifier = load_or_train(evaluation_cache)

    arguments = ["evaluate", str(digit_files / "fake"), "--reference", "real"]
    prompts = ["--prompts", str(digit_files / "fake.txt")]
    (row,) = referenced.json(
        *arguments, *prompts, "--metric", "fid,kid,precision,recall,alignment", "--bootstrap", "50"
    )["table"]
    images = DIGITS.images(32)
    images = (images * 255).round() / 255
    real, fake = (
        FeatureStatistics.from_features(classifier.features(images[part]))
        for part in (slice(0, 300), slice(1000, 1120))
    )
    assert row["fid"] == pytest.approx(frechet_distance(fake, real), rel=1e-4)
    assert row["alignment"] > 0.9
    assert 0 < row["recall"] <= 1
    assert 0 < row["precision"] <= 1
    for score in row["scores"].values():
        assert score["interval"]["low"] < score["value"] < score["interval"]["high"]
        assert score["fingerprint"]["samples"] == 120
    assert row["scores"]["fid"]["bias"] is None  # halves of 60 rows, 64 features

    listed = referenced.json("references", "list")
    assert {(one["name"], one["images"], one["size"]) for one in listed} == {
        *((data.name, len(data), None) for data in BUNDLED.values()),
        ("real", 300, 32),
    }
    assert len({frozenset(one) for one in listed}) == 1
    told = referenced(*arguments)  # no digits, no prompts: fid alone
    assert "fid ↓" in told.stdout
    assert "95 % interval" in told.stdout
    assert "bias" not in told.stdout + told.stderr
    assert "alignment" not in told.stdout


def test_a_run_s_fresh_scores_are_those_of_evaluate(inside_finished: InsideWorkbench) -> None:
    """Two ways to the same number: the run's end, and its checkpoint scored at those seeds."""
    results = json.loads((inside_finished.only_run() / "results.json").read_text())
    fresh = {(row["weights"], row["seed"]): row for row in results["fresh"]}
    assert set(fresh) == {(w, s) for w in ("last", "best") for s in (10**9, 2 * 10**9)}
    command = ("evaluate", "quickstart", "--metric", "fid", "--bootstrap", "0")
    seeds = ("--seed", "0,1000000000,2000000000")
    table = inside_finished.json(*command, *seeds)["table"]
    assert [row["seed"] for row in table] == [0, 10**9, 2 * 10**9]
    own = next(r for r in results["table"] if (r["model"], r["steps"]) == ("student", 4))
    assert table[0]["fid"] == pytest.approx(own["fid"], rel=1e-6)
    for row in table[1:]:
        assert row["fid"] == pytest.approx(fresh["last", row["seed"]]["fid"], rel=1e-6)
    assert len({row["fid"] for row in table}) == 3
    assert len({row["scores"]["fid"]["fingerprint"]["protocol"] for row in table}) == 1
    told = inside_finished(*command, *seeds)
    assert "Over 3 evaluation seeds" in told.stdout
    asked = ("compare", "quickstart", "--metric", "fid", "--reference", "digits", "--steps", "4")
    (group,) = inside_finished.json(*asked)["groups"]
    assert group["mean"] == pytest.approx(np.mean([row["fid"] for row in table]))
    assert group["interval_over"] == "evaluation seeds"
    assert group["evaluation_sd"] == pytest.approx(np.std([r["fid"] for r in table], ddof=1))
    refused = inside_finished("evaluate", "quickstart", "--seed", "1,x", code=2)
    assert "--seed 1,x: expected whole numbers" in refused.stderr
    for wrong in ("", str(2**64)):
        refused = inside_finished("evaluate", "quickstart", "--seed", wrong, code=2)
        assert len(refused.stderr.strip().splitlines()) == 1


def test_scores_are_kept_with_what_decides_them(
    referenced: InsideWorkbench, digit_files: Path
) -> None:
    command = ["evaluate", str(digit_files / "fake"), "--reference", "real", "--metric", "fid"]
    told = [referenced.json(*command), referenced.json(*command)]
    assert told[0]["table"][0]["scores"] == told[1]["table"][0]["scores"]
    (kept,) = (referenced.workspace / "evaluations" / "fake").iterdir()
    content = json.loads(kept.read_text())
    assert content == told[1]["table"][0]
    fingerprint = content["scores"]["fid"]["fingerprint"]
    assert {"features", "reference", "samples", "prompts", "seed", "versions", "sampler"} <= set(
        fingerprint
    )
    half = referenced.json(*command, "--samples", "60")["table"][0]["scores"]["fid"]["fingerprint"]
    assert half["protocol"] != fingerprint["protocol"]
    assert half["sampler"] == fingerprint["sampler"]


def test_a_runs_student_is_scored_by_two_processes_as_by_one_and_logged(
    inside_finished: InsideWorkbench, tmp_path: Path
) -> None:
    kept = tmp_path / "images"
    command = ["evaluate", "quickstart", "--samples", "60", "--batch-size", "16"]
    twice = [*command, "--nproc", "2", "--keep-images", str(kept)]
    two = inside_finished.json(*twice)["table"][0]
    assert set(two["scores"]) == {"fid", "alignment"}
    one = inside_finished.json(*command)["table"][0]
    assert {name: score["fingerprint"] for name, score in one["scores"].items()} == {
        name: score["fingerprint"] for name, score in two["scores"].items()
    }
    assert two["fid"] == pytest.approx(one["fid"], rel=1e-5)
    assert len(list((kept / "4-steps").glob("*.png"))) == 60

    again = inside_finished.json(*command, "--metric", "fid,kid,alignment")["table"][0]
    assert again["fid"] == one["fid"]
    uri = default_uri(inside_finished.workspace)
    (run,) = list_runs(uri, "quickstart", where=ONLY_RUNS)
    protocol = one["scores"]["fid"]["fingerprint"]["protocol"][:8]
    history = metric_history(uri, run.run_id, [f"evaluation/digits/fid_4steps_{protocol}"])
    assert list(history["step"]) == [1600]
    assert list(history["value"]) == [two["fid"]]
    assert len(list_artifacts(uri, run.run_id, "evaluations")) >= 2

    compared = inside_finished.json("compare", "quickstart", "--metric", "kid", "--steps", "4")
    (group,) = compared["groups"]
    assert group["mean"] == again["kid"]
    assert group["interval"] == [again["scores"]["kid"]["interval"][end] for end in ("low", "high")]
    assert (group["interval_over"], group["kimg"]) == ("samples", [1.6])
    assert compared["protocols"] == [again["scores"]["kid"]["fingerprint"]["protocol"][:8]]

    other = inside_finished(*command, "--seed", "1", "--keep-images", str(kept), code=2)
    assert "holds other files" in other.stderr


def test_the_same_command_continues_with_the_images_that_it_keeps(
    prepared: InsideWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.students.measure import Samplers

    drawn: list[int] = []
    images = Samplers.images

    def counting(self, model, encoded, start, count):
        drawn.extend(range(start, start + count))
        return images(self, model, encoded, start, count)

    monkeypatch.setattr(Samplers, "images", counting)
    command = [
        "evaluate",
        str(prepared.teacher),
        "--reference",
        "digits",
        "--samples",
        "24",
        "--steps",
        "1",
    ]
    command += ["--metric", "fid", "--batch-size", "10", "--keep-images", str(tmp_path / "kept")]
    first = prepared.json(*command)["table"][0]
    files = sorted((tmp_path / "kept" / "1-steps").glob("*.png"))
    assert (len(files), drawn) == (24, list(range(24)))
    assert not list(files[0].parent.glob(".*"))
    content = [file.read_bytes() for file in files]
    drawn.clear()
    assert prepared.json(*command)["table"][0] == first
    assert drawn == []
    files[12].unlink()
    assert prepared.json(*command)["table"][0]["fid"] == first["fid"]
    assert drawn == list(range(10, 20))
    assert [file.read_bytes() for file in files] == content


def test_unless_told_alignment_is_measured_of_digit_prompts_only(
    prepared: InsideWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.students.measure import Samplers

    captions = tmp_path / "captions.txt"
    captions.write_text("two dogs\n" + "a cat\n" * 19)
    command = [
        "evaluate",
        str(prepared.teacher),
        "--reference",
        "digits",
        "--steps",
        "1",
        "--prompts",
        str(captions),
    ]
    assert set(prepared.json(*command)["table"][0]["scores"]) == {"fid"}

    def forbidden(*_):
        raise AssertionError("drawn")

    monkeypatch.setattr(Samplers, "images", forbidden)
    told = prepared(*command, "--metric", "fid,alignment", "--seed", "1", code=2)
    assert "alignment cannot judge by these prompts: The prompt 'two dogs'" in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_scores_that_could_not_be_logged_are_shown_and_kept(
    inside_finished: InsideWorkbench,
) -> None:
    command = ["evaluate", "quickstart", "--samples", "40", "--seed", "5", "--metric", "fid"]
    lock = FileLock(tracking_dir(inside_finished.only_run()) / "lock")
    with lock:
        told = inside_finished(*command, "--json", code=1)
    row = json.loads(told.stdout)["table"][0]
    assert "but not logged" in told.stderr
    assert "Another process is tracking" in told.stderr
    assert inside_finished.json(*command)["table"][0]["fid"] == row["fid"]
    (run,) = list_runs(default_uri(inside_finished.workspace), "quickstart", where=ONLY_RUNS)
    protocol = row["scores"]["fid"]["fingerprint"]["protocol"][:8]
    assert run.metrics[f"evaluation/digits/fid_4steps_{protocol}_seed5"] == row["fid"]


def test_a_run_of_another_workspace_is_kept_but_logged_to_no_run_of_its_name(
    inside_finished: InsideWorkbench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = inside_finished.only_run()
    foreign = tmp_path / "other" / "runs" / own.parent.name / own.name
    shutil.copytree(own, foreign)
    uri = default_uri(inside_finished.workspace)
    (before,) = list_runs(uri, "quickstart", where=ONLY_RUNS)
    command = [
        "evaluate",
        str(foreign),
        *DIGITS_REFERENCE,
        "--samples",
        "30",
        "--metric",
        "fid",
        "--seed",
        "9",
    ]
    told = inside_finished.json(*command)
    (after,) = list_runs(uri, "quickstart", where=ONLY_RUNS)
    assert after.metrics == before.metrics
    assert "no run of this workspace" in caplog.text
    assert told["model"] == str(foreign)
    kept = {f.parent.name for f in (inside_finished.workspace / "evaluations").glob("*/*.json")}
    assert str(foreign).replace("/", "-") in kept


def test_another_metric_draws_nothing_and_a_fresh_batch_size_too(
    prepared: InsideWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.students.measure import Samplers

    command = [
        "evaluate",
        str(prepared.teacher),
        "--reference",
        "digits",
        "--samples",
        "40",
        "--steps",
        "2",
    ]
    first = prepared.json(*command, "--metric", "fid")["table"][0]

    def forbidden(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(Samplers, "images", forbidden)
    more = prepared.json(*command, "--metric", "fid,recall", "--batch-size", "7")["table"][0]
    assert more["fid"] == first["fid"]
    assert more["recall"] > 0
    with pytest.raises(AssertionError, match="drawn again"):
        prepared(*command, "--metric", "fid", "--seed", "1")
    # Rows of another library's version are not what the fingerprint would say of them.
    monkeypatch.setattr("workbench.evaluation.evaluator._version", lambda name: "9.9")
    with pytest.raises(AssertionError, match="drawn again"):
        prepared(*command, "--metric", "fid")


def test_a_stock_pipeline_draws_each_image_from_its_own_generator(
    prepared: InsideWorkbench,
) -> None:
    asked = Asked(str(prepared.teacher), seeds=(3,), stock=True)
    source = open_source(open_workspace(prepared.workspace), asked, CPU)
    assert isinstance(source, PipelineSource)
    assert source.default_steps == (50,)
    prompts = ["the digit 7", "a handwritten two", "the digit 1"]
    sampler = source.sampler(2, prompts)
    together = sampler.draw(prompts, 0, 3)
    assert sampler.nfe() == 2.0
    alone = sampler.draw(prompts[2:], 2, 1)
    assert sampler.nfe() == 2.0
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=1e-4)
    stock = source._pipeline(
        prompt=prompts[2],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3 * 10**9 + 2),
        output_type="pt",
        **source._call,
    ).images
    torch.testing.assert_close(alone, stock, rtol=0, atol=1e-6)

    row = prepared.json(
        *("evaluate", str(prepared.teacher), *DIGITS_REFERENCE, "--stock", "--steps", "2"),
        *("--samples", "20", "--call", "guidance_scale=2.0"),
    )["table"][0]
    assert (row["model"], row["nfe"]) == ("pipeline", 4.0)
    assert row["scores"]["fid"]["fingerprint"]["sampler"]["call"]["guidance_scale"] == 2.0


def test_a_stock_pipelines_evaluations_are_counted_without_a_draw_of_their_own(
    prepared: InsideWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int]] = []
    stock = PipelineSource._images

    def images(self, prompts, start, steps):
        drawn.append((start, len(prompts)))
        return stock(self, prompts, start, steps)

    monkeypatch.setattr(PipelineSource, "_images", images)
    command = [
        *("evaluate", str(prepared.teacher), *DIGITS_REFERENCE),
        *("--stock", "--steps", "2", "--samples", "20"),
        *("--call", "guidance_scale=2.0", "--batch-size", "12", "--bootstrap", "0"),
    ]
    first = prepared.json(*command, "--metric", "fid")["table"][0]
    assert drawn == [(0, 12), (12, 8)]
    kept = prepared.json(*command, "--metric", "fid,kid")["table"][0]
    assert len(drawn) == 2  # and the count was kept with the rows
    assert first["nfe"] == kept["nfe"] == 4.0


def test_evaluations_that_cannot_be_say_why(
    referenced: InsideWorkbench, digit_files: Path, tmp_path: Path
) -> None:
    fake, real = str(digit_files / "fake"), ["--reference", "real"]
    mixed = tmp_path / "mixed"
    shutil.copytree(fake, mixed)
    Image.new("RGB", (9, 9)).save(mixed / "zzz.png")
    few = tmp_path / "few.txt"
    few.write_text("the digit 1\nthe digit 2\n")
    gap = tmp_path / "gap.txt"  # as many prompts as images, but not in their places
    gap.write_text("\n" + (digit_files / "fake.txt").read_text())
    broken = tmp_path / "broken"
    shutil.copytree(fake, broken)
    whole = sorted(broken.iterdir())[-1]
    whole.write_bytes(whole.read_bytes()[:-60])
    teacher = str(referenced.teacher)
    for arguments, message in (
        ([teacher, "--metric", "fid"], "Nothing says what"),
        ([fake, *real, "--metric", "fid", "--steps", "4"], "folder of images: drop --steps"),
        ([fake, *real, "--metric", "alignment"], "name them with --prompts FILE"),
        ([fake, *real, "--metric", "fid", "--samples", "121"], "has 120 images, not 121"),
        ([fake, *real, "--prompts", str(few)], "holds 2 prompts for 120 images"),
        ([fake, *real, "--metric", "recal"], "Did you mean 'recall'"),
        ([fake, *real, "--metric", "fid_dinov2"], "The weights 'dinov2' are missing"),
        ([fake, *real, "--metric", "fid", "--extrapolate"], "at least 260 samples, not 120"),
        ([fake, "--reference", "reel", "--metric", "fid"], "Did you mean 'real'"),
        ([fake, *real, "--metric", "recall", "--samples", "3"], "needs at least 4 samples, not 3"),
        ([str(mixed), *real, "--metric", "fid"], "mixed sizes"),
        (
            [
                teacher,
                *DIGITS_REFERENCE,
                "--metric",
                "fid",
                "--prompts",
                str(few),
                "--samples",
                "3",
            ],
            "2 prompts",
        ),
        ([teacher, "--metric", "fid", *real, "--samples", "301"], "300 captions, not 301"),
        (
            [teacher, *DIGITS_REFERENCE, "--metric", "fid", "--stock", "--call", "cfg=2"],
            "takes no 'cfg'",
        ),
        (
            [teacher, *DIGITS_REFERENCE, "--metric", "fid", "--call", "guidance_scale=2"],
            "add --stock",
        ),
        ([fake, *real, "--metric", "fid", "--stock"], "holds images"),
        ([fake, *real, "--metric", "fid", "--cfg-scale", "2"], "--cfg-scale of teachers"),
        (
            [fake, *real, "--metric", "fid", "--seed", "1"],
            "--seed and --precision of what is drawn",
        ),
        ([fake, *real, "--metric", "fid", "--precision", "bf16"], "--precision of what is drawn"),
        (
            [teacher, *DIGITS_REFERENCE, "--metric", "fid", "--stock", "--precision", "bf16"],
            "--precision is of runs and teachers",
        ),
        ([fake, *real, "--metric", "fid", "--keep-images", "x"], "drop --keep-images"),
        ([fake, *real, "--prompts", str(gap)], "holds 120 prompts and 1 empty ones for 120 images"),
        (
            [teacher, *DIGITS_REFERENCE, "--metric", "fid", "--stock", "--call", "prompt=x"],
            "given by evaluate",
        ),
        ([str(broken), *real, "--metric", "fid"], "cannot be read as an image"),
        (
            [teacher, *DIGITS_REFERENCE, "--stock", "--metric", "fid", "--cfg-scale", "2"],
            "--call guidance_scale=2",
        ),
        (
            [fake, *real, "--metric", "fid", "--weights", "inception"],
            "Expected --weights NAME=PATH",
        ),
        (
            [fake, *real, "--metric", "fid", "--weights", "clip=x"],
            "needs the weights of no network",
        ),
        ([fake, *real, "--metric", "recall", "--bootstrap", "1"], "at least 2 resamples, not 1"),
    ):
        told = referenced("evaluate", *arguments, code=2)
        assert message in told.stderr, (arguments, told.stderr)
        assert len(told.stderr.splitlines()) == 1
    assert not (referenced.workspace / "evaluations").exists()


def test_resamples_are_recalls_and_intervals_know_the_prompts(
    prepared: InsideWorkbench, digit_files: Path, tmp_path: Path
) -> None:
    """The first 20 of 200 resamples have another spread."""
    command = ["evaluate", str(digit_files / "real"), *DIGITS_REFERENCE, "--extrapolate"]
    ten, same = tmp_path / "ten.txt", tmp_path / "same.txt"
    labels = DIGITS.labels[:300]
    ten.write_text("".join(f"the digit {label}\n" for label in labels))
    same.write_text("a digit\n" * 300)
    command += ["--metric", "fid,recall", "--prompts"]
    few, many = (
        prepared.json(*command, str(ten), "--bootstrap", count)["table"][0]["scores"]
        for count in ("20", "200")
    )
    assert few["fid"] == many["fid"]
    assert few["recall"]["interval"] != many["recall"]["interval"]
    assert few["fid"]["bias"] > 0
    blind = prepared.json(*command, str(same))["table"][0]["scores"]["fid"]
    assert blind["value"] == few["fid"]["value"]
    assert blind["interval"] != few["fid"]["interval"]


def test_the_floor_of_a_reference_is_told_for_any_number_of_samples(
    referenced: InsideWorkbench,
) -> None:
    found = [
        referenced.json("references", "floor", name, "--samples", samples)
        for name, samples in (("real", "300"), ("real", "600"), ("digits", "2000"))
    ]
    assert [(one["reference"], one["samples"]) for one in found] == [
        ("real", 300),
        ("real", 600),
        ("digits", 2000),
    ]
    assert found[1]["mean"] == pytest.approx(found[0]["mean"] * 0.75)
    assert found[2]["low"] < found[2]["mean"] < found[2]["high"] < found[0]["mean"]
    assert found[2]["mean"] == pytest.approx(0.21, abs=0.02)
    told = referenced("references", "floor", "real", "--samples", "64", code=2)
    assert "at least 130 images and 65 samples, not 300 and 64" in told.stderr


def test_a_seed_without_a_choice_is_refused(prepared: InsideWorkbench, digit_files: Path) -> None:
    told = prepared(
        *("references", "build", "seeded", "--images", str(digit_files / "real"), "--seed", "3"),
        code=2,
    )
    assert told.stderr.startswith("Error: --seed decides the choice that --samples makes")
    assert len(told.stderr.splitlines()) == 1


def test_samples_of_a_teacher_are_prepared_as_the_reference_was(
    prepared: InsideWorkbench, digit_files: Path
) -> None:
    """A reference of 16 pixels: the teacher's 32 are resized before the network looks."""
    prepared(
        *("references", "build", "small", "--images", str(digit_files / "real")),
        *("--captions", str(digit_files / "real.txt"), "--network", "digits"),
        *("--resolution", "16"),
    )
    row = prepared.json(
        *("evaluate", str(prepared.teacher), "--reference", "small", "--metric", "fid"),
        *("--samples", "20", "--steps", "1"),
    )["table"][0]
    assert "to 16" in row["scores"]["fid"]["fingerprint"]["features"]
    assert np.isfinite(row["fid"])


def test_bundled_data_that_is_written_is_scored_like_anybodys(
    prepared: InsideWorkbench, tmp_path: Path
) -> None:
    folder = tmp_path / "scenes"
    told = prepared(
        "references", "write", "scenes-val", str(folder), *("--images", "80", "--side", "32")
    )
    assert told.stdout.strip() == str(folder)
    captions = folder / "captions.jsonl"
    prepared(
        *("references", "build", "mine", "--images", str(folder), "--captions", str(captions)),
        *("--network", "scenes", "--resolution", "32"),
    )
    command = ["evaluate", str(folder), "--reference", "mine", "--prompts", str(captions)]
    row = prepared.json(*command)["table"][0]
    assert set(row["scores"]) == {"fid", "composition"}  # what is measured unless told
    assert row["composition"] > 0.95
    assert row["fid"] == pytest.approx(0.0, abs=1e-4)
    told = prepared(*command, "--metric", "composition_two,spread", "--bootstrap", "0")
    assert "composition_two, spread: judged by a network that is right of 99.9" in told.stderr
    assert "spread → 1" in told.stdout
