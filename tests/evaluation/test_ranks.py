"""An evaluation on processes of its own, and what it leaves behind: nothing but scores."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import ThreadRanks
from workbench.errors import WorkbenchError
from workbench.evaluation import (
    Evaluator,
    FeatureStatistics,
    FrechetMetric,
    KernelMetric,
    MeanMetric,
    ReferenceRows,
    Sampler,
)
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_cache import scratch_cache
from workbench.evaluation.grids import NotFiniteError
from workbench.evaluation.sample_loop import ALONE
from workbench.flow import NoiseSource
from workbench.training.launch import launch
from workbench.training.parallel import Ranks, init_distributed

SAMPLES, BATCH, DIMENSION = 130, 20, 12


class Corners(FeatureExtractor):
    """Twelve pixels of each image; not finite in the samples that ``spoilt`` names."""

    name, fingerprint, dimension = "corners", "0", DIMENSION

    def __init__(self, spoilt: tuple[int, ...] = ()) -> None:
        self.spoilt = spoilt

    def extract(self, images, prompts):
        rows = images.flatten(1)[:, :DIMENSION].clone()
        for place, prompt in enumerate(prompts):
            if int(prompt) in self.spoilt:
                rows[place, 3] = torch.nan
        return rows


def draw(prompts, start, count):
    return torch.sigmoid(NoiseSource(0).normal("images", start, count, (3, 4, 4)))


SAMPLER = Sampler(draw, 1, 1.0)


def evaluator(spoilt: tuple[int, ...] = ()) -> Evaluator:
    extractor = Corners(spoilt)
    rows = np.random.default_rng(0).uniform(size=(200, DIMENSION)).astype(np.float32)
    reference = ReferenceRows(rows)
    metrics = (
        FrechetMetric(extractor, FeatureStatistics.from_features(rows)),
        KernelMetric(extractor, reference, subsets=5),
        MeanMetric(extractor, "clip"),
    )
    return Evaluator(metrics, tuple(map(str, range(SAMPLES))), batch_size=BATCH)


def evaluated(
    ranks: Ranks, scratch: Path | None
) -> tuple[dict[str, float], list[int], list[object]]:
    """The scores, bytes of each thing that travelled, and what was shown."""
    sent: list[int] = []
    shown: list[object] = []

    def gather(value):
        sent.append(len(pickle.dumps(value)))
        return ranks.gather(value)

    scores = evaluator().evaluate(
        SAMPLER,
        ThreadRanks(ranks.rank, ranks.world, ranks.device, gather),
        show=lambda done, total: shown.append((done, total)),
        scratch=scratch,
    )
    return dict(scores.values), sent, ranks.gather(shown)


def on_ranks(scratch: Path) -> tuple[list[Any], list[str]]:
    """On every rank: what is evaluated with a folder and without, and each rank's problem."""
    with init_distributed() as ranks:
        found = [evaluated(ranks, folder) for folder in (scratch, None)]
        try:
            evaluator((97, 45)).evaluate(SAMPLER, ranks)
        except WorkbenchError as error:
            problem = str(error)
        return found, ranks.gather(problem)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch) -> Path:
    """The only place for temporary files."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_two_processes_score_as_one_to_the_last_bit_and_send_no_rows(scratch):
    """And a problem is the first sample's: 45 is rank 0's in batch 2, 97 rank 0's in batch 4."""
    alone = [evaluated(ALONE, folder) for folder in (scratch, None)]
    assert list(scratch.iterdir()) == []
    together, problems = launch(on_ranks, 2, scratch)
    for (one, _, shown), (both, travelled, seen) in zip(alone, together, strict=True):
        assert both == one
        assert shown == [[(done, SAMPLES) for done in (0, 20, 40, 60, 80, 100, 120, SAMPLES)]]
        assert seen == [[(done, SAMPLES) for done in (0, 40, 80, 120, SAMPLES)], []]  # rank 0 alone
        assert sum(travelled) < SAMPLES * DIMENSION * 4 / 2  # half of what the rows themselves are
    assert len(problems) == 2
    for problem in problems:
        assert problem.startswith("What corners sees in sample 45 is not finite")
    assert [path for path in scratch.iterdir() if path.name.startswith(".evaluation")] == []


def test_scores_are_those_of_the_rows_themselves(scratch):
    images = draw([], 0, SAMPLES)
    rows = Corners().extract(images, map(str, range(SAMPLES))).numpy()
    for metric in evaluator().metrics:
        assert evaluator().evaluate(SAMPLER).values[metric.name] == metric.compute(rows)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, WorkbenchError])
def test_an_evaluation_that_ends_early_leaves_nothing(scratch, error):
    files = []

    def breaks(prompts, start, count):
        if start == 60:
            files.extend(scratch.rglob("*.safetensors"))
            raise error
        return draw(prompts, start, count)

    with pytest.raises(error):
        evaluator().evaluate(Sampler(breaks, 1, 1.0), scratch=scratch)
    assert len(files) == 3  # of the batches before it
    assert list(scratch.iterdir()) == []


def test_what_a_killed_evaluation_left_goes_with_the_next(scratch):
    (scratch / ".evaluation-killed" / "deep").mkdir(parents=True)
    (scratch / "checkpoints").mkdir()
    evaluator().evaluate(SAMPLER, scratch=scratch)
    assert [path.name for path in scratch.iterdir()] == ["checkpoints"]


def test_no_room_is_told_on_every_rank_before_anything_is_drawn(tmp_path):
    taken = tmp_path / "file"
    taken.write_text("")
    told = []

    def gather(value):
        told.append(value)
        return [value, None]

    with (
        pytest.raises(WorkbenchError, match="No room for an evaluation's features"),
        scratch_cache(taken, ThreadRanks(0, 2, ALONE.device, gather)),
    ):
        raise AssertionError("unreachable")
    assert isinstance(told[0], WorkbenchError)
    with (
        pytest.raises(WorkbenchError, match="No room"),
        scratch_cache(taken, ThreadRanks(1, 2, ALONE.device, lambda value: [told[0], value])),
    ):
        raise AssertionError("unreachable")


def test_features_that_are_not_finite_are_told_apart(scratch):
    with pytest.raises(NotFiniteError, match="sample 45"):
        evaluator((97, 45)).evaluate(SAMPLER)
