from __future__ import annotations

import dataclasses
import json
import pickle
import threading
from collections import Counter

import pytest
import torch

from tests.helpers import ThreadRanks, digits_evaluator
from workbench.data.bundled import DIGITS, prompt_label
from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation import (
    Evaluator,
    FeatureCache,
    FeatureStatistics,
    FrechetMetric,
    MeanMetric,
    Sampler,
    apportion,
    frechet_distance,
    prompt_mix,
)
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.images import Preparation, Prepared
from workbench.evaluation.references import BundledReference

CPU = torch.device("cpu")


@pytest.fixture
def evaluator(cache_dir):
    return digits_evaluator(cache_dir, samples=330, seed=5, batch_size=40)


@pytest.fixture(scope="session")
def noisy_digits(digits):
    """A sampler of real digits under noise addressed by sample: as a generator, but known."""
    images, labels = digits
    by_label = [images[labels == label] for label in range(10)]

    def draw_with(noise, strength=0.15):
        def draw(prompts, start, count):
            assert len(prompts) == count
            shown = [by_label[prompt_label(p)][(start + i) % 170] for i, p in enumerate(prompts)]
            grain = noise.normal("evaluation/z", start, count, (3, 32, 32))
            return (torch.stack(shown) + strength * grain).clamp(0, 1)

        return draw

    return draw_with


def run_ranks(evaluator, sampler, world):
    """Every rank in a thread with a gather that sends pickles, as torch.distributed's does."""
    boxes, results = [None] * world, [None] * world
    barrier = threading.Barrier(world, timeout=30)

    def one(rank):
        def gather(value):
            boxes[rank] = pickle.dumps(value)
            barrier.wait()
            gathered = [pickle.loads(box) for box in boxes]
            barrier.wait()  # before any rank fills its box again
            return gathered

        try:
            results[rank] = evaluator.evaluate(sampler, ThreadRanks(rank, world, CPU, gather))
        except WorkbenchError as error:
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_scores_equal_a_computation_without_batches(evaluator, noisy_digits):
    draw = noisy_digits(evaluator.noise)
    scores = evaluator.evaluate(Sampler(draw, steps=4, nfe=4.0))
    images = draw(list(evaluator.prompts), 0, 330)
    fid, alignment = evaluator.metrics
    features = FeatureStatistics.from_features(fid.extractor.features(images))
    expected = frechet_distance(features, fid.reference)
    assert scores.values["fid"] == pytest.approx(expected, rel=1e-5)
    probabilities = alignment.extractor.extract(images, evaluator.prompts)
    assert scores.values["alignment"] == pytest.approx(probabilities.double().mean().item())
    assert scores.nfe == 4.0
    assert scores.seconds > 0
    assert scores.ms_per_image > 0


@pytest.mark.parametrize("world", [2, 3, 12])
def test_ranks_score_as_one_process_to_the_last_bit(evaluator, noisy_digits, world):
    """9 batches, so that no rank count divides them but 3; 12 leaves ranks without any."""
    sampler = Sampler(noisy_digits(evaluator.noise), steps=4, nfe=4.0)
    alone = evaluator.evaluate(sampler)
    for scores in run_ranks(evaluator, sampler, world):
        assert scores.values == alone.values
        assert scores.fingerprint == alone.fingerprint


@pytest.mark.parametrize("world", [1, 2, 4])
def test_each_sample_is_drawn_once_and_every_rank_draws_equally_often(evaluator, world):
    calls = []

    def draw(prompts, start, count):
        calls.append((threading.get_ident(), start, prompts))
        return torch.rand(count, 3, 32, 32)

    run_ranks(evaluator, Sampler(draw, 1, 1.0), world)
    per_rank = Counter(thread for thread, _, _ in calls)
    assert len(per_rank) == world
    assert set(per_rank.values()) == {-(-9 // world)}
    spare = [call for call in calls if len(call[2]) == 1]
    assert len(spare) == -9 % world
    drawn = sorted((start, prompts) for _, start, prompts in calls if len(prompts) > 1)
    assert [p for _, prompts in drawn for p in prompts] == list(evaluator.prompts)
    assert [start for start, _ in drawn] == list(range(0, 330, 40))


def test_batch_size_changes_no_score(evaluator, noisy_digits):
    sampler = Sampler(noisy_digits(evaluator.noise), steps=4, nfe=4.0)
    other = dataclasses.replace(evaluator, batch_size=77)
    one, two = evaluator.evaluate(sampler), other.evaluate(sampler)
    assert two.values == pytest.approx(dict(one.values), rel=1e-5)
    assert two.fingerprint == one.fingerprint


def test_the_number_of_threads_is_no_part_of_the_protocol(cache_dir):
    """Runs on one core and on many compare; kernels differ in their last bits with the threads."""
    threads = torch.get_num_threads()
    protocols = set()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        protocols.add(digits_evaluator(cache_dir, samples=20).protocol)
    torch.set_num_threads(threads)
    assert len(protocols) == 1


class RenamedWeights(FeatureExtractor):
    """An extractor of other weights."""

    def __init__(self, part):
        self._part = part

    def __getattr__(self, name):
        return "other-weights" if name == "fingerprint" else getattr(self._part, name)


def test_fingerprint_changes_with_every_ingredient_and_only_then(cache_dir, evaluator, monkeypatch):
    known = evaluator.fingerprint(4)
    assert json.loads(json.dumps(known)) == known
    assert digits_evaluator(cache_dir, 330, 5, batch_size=11).fingerprint(4) == known

    fid, alignment = evaluator.metrics
    shifted = FeatureStatistics(fid.reference.mean + 1, fid.reference.covariance, 1797)
    replace = dataclasses.replace
    others = {
        "steps": evaluator.fingerprint(2),
        "seed": replace(evaluator, seed=6).fingerprint(4),
        "prompts": replace(evaluator, prompts=evaluator.prompts[::-1]).fingerprint(4),
        "samples": replace(evaluator, prompts=evaluator.prompts[:-1]).fingerprint(4),
        "reference": replace(
            evaluator, metrics=(replace(fid, reference=shifted), alignment)
        ).fingerprint(4),
        "features": replace(
            evaluator, metrics=(replace(fid, extractor=RenamedWeights(fid.extractor)), alignment)
        ).fingerprint(4),
        "scorer": replace(
            evaluator,
            metrics=(fid, MeanMetric(RenamedWeights(alignment.extractor), "alignment")),
        ).fingerprint(4),
    }
    for library in ("torch", "numpy", "scipy", "diffusers"):
        with monkeypatch.context() as patch:
            patch.setattr(
                "workbench.evaluation.evaluator._version",
                lambda name, changed=library: "9.9" if name == changed else known["versions"][name],
            )
            others[library] = evaluator.fingerprint(4)
    ids = [known["id"], *(other["id"] for other in others.values())]
    assert len(set(ids)) == len(ids) == 12


def test_a_single_score_names_what_resized_and_what_encoded_text(evaluator, monkeypatch):
    fid, known = evaluator.metrics[0], evaluator.fingerprint_of(evaluator.metrics[0], {})
    assert evaluator.fingerprint_of(fid, {"weights": "w"})["protocol"] == known["protocol"]
    for library in ("pillow", "transformers", "torch"):
        assert known["versions"][library]
        with monkeypatch.context() as patch:
            patch.setattr(
                "workbench.evaluation.evaluator._version",
                lambda name, changed=library: "9.9" if name == changed else known["versions"][name],
            )
            assert evaluator.fingerprint_of(fid, {})["protocol"] != known["protocol"]


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images: images.index_fill(0, torch.tensor([7]), torch.nan), r"Sample 127 \('.*'\)"),
        (lambda images: images.index_fill(0, torch.tensor([7]), torch.inf), "Sample 127 .*finite"),
        (lambda images: images * 2 - 1, r"\[0, 1\].* from -1 to "),
        (lambda images: images[:, :1], r"\(40, 3, H, W\).*got \(40, 1, 32, 32\)"),
        (lambda images: images[:-1], r"got \(39, 3, 32, 32\)"),
    ],
)
def test_a_bad_image_on_one_rank_is_an_error_on_all(evaluator, spoil, message, world):
    def draw(prompts, start, count):
        images = torch.zeros(count, 3, 32, 32)
        images[..., 0] = 0.9
        return spoil(images) if start == 120 else images

    results = run_ranks(evaluator, Sampler(draw, 1, 1.0), world)
    for result in results:
        assert isinstance(result, WorkbenchError)
        with pytest.raises(WorkbenchError, match=message):
            raise result


@pytest.mark.parametrize("error", [RequestError, WorkbenchError])
def test_a_metric_that_fails_on_one_rank_fails_on_all_and_as_it_failed(
    evaluator, classifier, error
):
    class Fussy(RenamedWeights):
        def extract(self, images, prompts):
            if evaluator.prompts[200] in prompts:
                raise error("cannot judge")
            return classifier.features(images)

    prompts = ("a cat",) * 330
    fussy = MeanMetric(Fussy(classifier), "aesthetic")
    broken = Evaluator((fussy,), (*prompts[:200], evaluator.prompts[200], *prompts[201:]), 0, 40)
    calls = []

    def draw(prompts, start, count):
        calls.append(start)
        return torch.rand(count, 3, 32, 32)

    for result in run_ranks(broken, Sampler(draw, 1, 1.0), 2):
        assert type(result) is error
        assert "cannot judge" in str(result)
    assert len(calls) == 10  # its peer may wait inside a sharded network: both draw to the end


def test_prompts_that_a_metric_cannot_judge_by_are_refused_before_anything_is_drawn(evaluator):
    prompts = list(evaluator.prompts)
    prompts[200] = "two dogs"
    with pytest.raises(RequestError, match=r"alignment cannot judge by these prompts: .*two dogs"):
        dataclasses.replace(evaluator, prompts=tuple(prompts))
    fid, alignment = evaluator.metrics
    assert Evaluator((fid,), tuple(prompts)).samples == 330
    prepared = Prepared(alignment.extractor, Preparation(32), lambda images: images)
    with pytest.raises(RequestError, match="two dogs"):
        Evaluator((MeanMetric(prepared, "alignment"),), tuple(prompts))


def test_requests_that_can_give_no_score_are_refused(cache_dir, evaluator):
    fid = evaluator.metrics[0]
    with pytest.raises(RequestError, match="at least 2 samples, not 1"):
        Evaluator((fid,), evaluator.prompts[:1])
    with pytest.raises(RequestError, match="at least 1 prompt, not 0"):
        BundledReference(DIGITS).prompts(0)
    with pytest.raises(RequestError, match="distinct names"):
        Evaluator((fid, fid), evaluator.prompts)
    with pytest.raises(RequestError, match="distinct names"):
        Evaluator((), evaluator.prompts)
    with pytest.raises(RequestError, match="batch size is 0"):
        Evaluator((fid,), evaluator.prompts, batch_size=0)
    with pytest.raises(RequestError, match="Did you mean 'alignment'"):
        digits_evaluator(cache_dir, metrics=("fid", "alinment"))


def test_first_batch_is_warm_up_and_scoring_is_not_timed(
    classifier, evaluator, monkeypatch, tmp_path
):
    clock = [0.0]
    monkeypatch.setattr("workbench.evaluation.sample_loop.time.perf_counter", lambda: clock[0])

    class SlowNetwork(RenamedWeights):
        def extract(self, images, prompts):
            clock[0] += 50.0
            return classifier.features(images)

    def draw(prompts, start, count):
        clock[0] += 1000.0 if start == 0 else 0.002 * count
        return torch.rand(count, 3, 32, 32)

    class SlowDisk:
        def has(self, start, count):
            return False

        def keep(self, images, prompts, start):
            clock[0] += 70.0

    fid = FrechetMetric(SlowNetwork(classifier), evaluator.metrics[0].reference)
    kept = dataclasses.replace(evaluator, metrics=(fid,)).sample_loop(
        FeatureCache(tmp_path, {}), sink=SlowDisk()
    )
    assert kept.run(Sampler(draw, 1, 1.0)).ms_per_image == pytest.approx(2.0)
    assert clock[0] == pytest.approx(1000 + 0.002 * 290 + 9 * 50 + 9 * 70)
    scores = dataclasses.replace(evaluator, metrics=(fid,)).evaluate(Sampler(draw, 1, 1.0))
    assert scores.ms_per_image == pytest.approx(2.0)
    assert scores.seconds == pytest.approx(1000 + 0.002 * 290 + 9 * 50)
    only = dataclasses.replace(evaluator, metrics=(fid,), batch_size=330)
    assert only.evaluate(Sampler(draw, 1, 1.0)).ms_per_image == pytest.approx(1e6 / 330)


@pytest.mark.parametrize("total", [1, 7, 10, 330, 1797, 2000, 3594])
def test_prompt_mix_has_the_real_shares(total):
    counts = DIGITS.class_counts()
    wordings = {label: DIGITS.prompts_of(label) for label in counts}
    prompts = prompt_mix(wordings, counts, total)
    drawn = Counter(prompt_label(prompt) for prompt in prompts)
    assert len(prompts) == total
    for label, count in counts.items():
        assert abs(drawn[label] - total * count / 1797) < 1
        used = [Counter(prompts)[wording] for wording in wordings[label]]
        assert max(used) - min(used) <= 1
    if total % 1797 == 0:
        assert drawn == {label: count * total // 1797 for label, count in counts.items()}


def test_prompt_mix_is_always_the_same_and_mixed():
    counts = DIGITS.class_counts()
    wordings = {label: DIGITS.prompts_of(label) for label in counts}
    one, again = (prompt_mix(wordings, counts, 500) for _ in range(2))
    assert one == again
    assert len({prompt_label(prompt) for prompt in one[:100]}) == 10
    with pytest.raises(RequestError, match=r"No prompt asks for classes \[3\]"):
        prompt_mix({**wordings, 3: ()}, counts, 10)


def test_apportion_by_largest_remainder():
    assert apportion({0: 1, 1: 1, 2: 1}, 7) == {0: 3, 1: 2, 2: 2}
    assert apportion({0: 53, 1: 27, 2: 20}, 10) == {0: 5, 1: 3, 2: 2}


class Colors(FeatureExtractor):
    """Each image's mean colour."""

    name, fingerprint, dimension = "colors", "0", 3

    def extract(self, images, prompts):
        return images.mean(dim=(2, 3))


def golden(**changes):
    reference = FeatureStatistics(
        torch.tensor([0.5, 0.25, 0.125]).double().numpy(),
        torch.diag(torch.tensor([1.0, 0.5, 0.25])).double().numpy(),
        100,
    )
    metrics = (FrechetMetric(Colors(), reference), MeanMetric(Colors(), "clip"))
    return Evaluator(metrics, ("a red cup", "a dog", "a cup"), **changes)


def test_precision_is_part_of_the_protocol_and_earlier_ids_stay(monkeypatch):
    monkeypatch.setattr("workbench.evaluation.evaluator._version", lambda name: "1.0")
    full, half = golden(), golden(precision="bf16")
    assert full.protocol == golden(batch_size=7, precision="fp32").protocol == "300ba05e4a5a3aea"
    assert full.fingerprint(4)["id"] == "4bfa1d3e70ee4e17"
    one = full.fingerprint_of(full.metrics[0], {"weights": "w"})
    assert (one["protocol"], one["id"]) == ("1a14539dcda8d966", "d179969223cb69a7")
    assert "precision" not in full.fingerprint(4)
    assert half.fingerprint(4)["precision"] == "bf16"
    assert half.protocol != full.protocol
    other = half.fingerprint_of(half.metrics[0], {"weights": "w"})
    assert other["protocol"] != one["protocol"]


def test_the_evaluation_seed_is_a_repetition_and_no_protocol():
    """Scores of any seed compare; each has an id and rows of its own."""
    first, other = golden(), golden(seed=3)
    assert first.protocol == other.protocol
    assert first.fingerprint(4)["id"] != other.fingerprint(4)["id"]
    one, two = (e.fingerprint_of(e.metrics[0], {"weights": "w"}) for e in (first, other))
    assert one["protocol"] == two["protocol"]
    assert (one["seed"], two["seed"]) == (0, 3)
    assert one["id"] != two["id"]
