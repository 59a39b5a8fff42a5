from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation import FeatureCache, SampleLoop, Sampler
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_cache import Timing
from workbench.evaluation.feature_table import blocks, chosen, mapped
from workbench.evaluation.grids import NotFiniteError


class Mean(FeatureExtractor):
    """An extractor that counts what it sees."""

    fingerprint, dimension = "0", 3

    def __init__(self, name="mean"):
        self.name, self.seen = name, 0

    def extract(self, images, prompts):
        self.seen += len(images)
        return images.mean(dim=(2, 3))


@pytest.fixture
def drawn():
    """A sampler of image i = i / 100, and the samples that it was asked for."""
    starts = []

    def draw(prompts, start, count):
        starts.extend(range(start, start + count))
        values = torch.arange(start, start + count) / 100
        return values[:, None, None, None].expand(-1, 3, 4, 4)

    return Sampler(draw, 1, 1.0), starts


def loop(extractors, prompts, batch_size, cache):
    return SampleLoop({f"{o.name}/0": o for o in extractors}, prompts, batch_size, cache)


def test_rows_come_back_in_order_or_not_at_all(tmp_path):
    cache, prompts = FeatureCache(tmp_path, {}), ["a"] * 12
    whole = np.arange(20, dtype=np.float32).reshape(10, 2)

    def save(start, rows):
        shown = prompts[start : start + len(rows)]
        return cache.save(start, shown, {"a/0": torch.tensor(rows)}, Timing(1.0, len(rows)))

    seen = save(6, whole[6:])
    with pytest.raises(WorkbenchError, match="Only 4 of 10 samples were seen by a: no score"):
        seen.rows("a/0", 10)
    seen.merge(pickle.loads(pickle.dumps(save(0, whole[:6]))))
    rows = seen.rows("a/0", 10)
    np.testing.assert_array_equal(rows, whole)
    assert isinstance(rows, np.memmap)
    np.testing.assert_array_equal(seen.rows("a/0", 7), whole[:7])
    assert seen.covers("a/0", 2, 8)
    assert not seen.covers("a/0", 2, 9)
    assert not seen.covers("b/0", 0, 1)
    with pytest.raises(NotFiniteError, match="a sees in sample 12 is not finite"):
        save(10, np.array([[1.0], [1.0], [np.nan]], np.float32))
    for file in tmp_path.rglob("*.safetensors"):  # what is mapped stays, and what is not is told
        file.unlink()
    np.testing.assert_array_equal(rows, whole)
    with pytest.raises(WorkbenchError, match=r"cannot be read .*All ranks must share its folder"):
        seen.rows("a/0", 8)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_blocks_are_the_rows_and_chosen_ones_are_those_places(size):
    plain = np.random.default_rng(0).normal(size=(700, 3)).astype(np.float32)
    rows = mapped([(300, plain[300:]), (0, plain[:300])], 700)
    starts, parts = zip(*blocks(rows, size), strict=True)
    assert list(starts) == list(range(0, 700, size))
    assert all(part.dtype == np.float64 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), plain)
    places = np.random.default_rng(1).permutation(700)[:600]
    np.testing.assert_array_equal(chosen(rows, places), plain[places])


def test_an_interrupted_loop_continues_and_another_extractor_draws_but_the_first_is_not_asked(
    tmp_path, drawn
):
    sampler, starts = drawn
    cache = FeatureCache(tmp_path, {"weights": "w"})
    prompts = [f"prompt {i}" for i in range(10)]
    first = Mean()

    def breaks(batch, start, count):
        if start >= 6:
            raise KeyboardInterrupt
        return sampler.draw(batch, start, count)

    with pytest.raises(KeyboardInterrupt):
        loop([first], prompts, 3, cache).run(Sampler(breaks, 1, 1.0))
    assert starts == list(range(6))
    starts.clear()
    rows = loop([first], prompts, 3, cache).run(sampler).table
    assert starts == list(range(6, 10))
    np.testing.assert_allclose(rows.rows("mean/0", 10)[:, 0], np.arange(10) / 100, rtol=1e-6)
    starts.clear()
    again = loop([first], prompts, 4, cache).run(sampler)
    assert starts == []
    assert again.ms_per_image > 0
    second = Mean("second")
    loop([first, second], prompts, 5, cache).run(sampler)
    assert starts == list(range(10))
    assert (first.seen, second.seen) == (10, 10)


def test_counted_evaluations_are_those_of_the_draws_and_kept_with_them(tmp_path, drawn):
    """Six images at 2 evaluations and three at 5: kept batches count as drawn ones do."""
    sampler, starts = drawn
    spent = 0.0

    def draw(prompts, start, count):
        nonlocal spent
        spent = 2.0 if start < 6 else 5.0
        return sampler.draw(prompts, start, count)

    counted, prompts = Sampler(draw, 1, lambda: spent), ["a"] * 9
    cache = FeatureCache(tmp_path, {})
    assert loop([Mean()], prompts, 3, cache).run(counted).nfe == 3.0
    starts.clear()
    spent = 0.0
    assert loop([Mean()], prompts, 3, cache).run(counted).nfe == 3.0
    assert starts == []
    known = Sampler(sampler.draw, 1, 7.0)
    assert loop([Mean()], prompts, 3, FeatureCache(tmp_path / "b", {})).run(known).nfe == 7.0
    # Rows without a count are no whole batch of a sampler that counts.
    loop([Mean()], prompts, 3, FeatureCache(tmp_path / "c", {})).run(known)
    starts.clear()
    loop([Mean()], prompts, 3, FeatureCache(tmp_path / "c", {})).run(counted)
    assert starts == list(range(9))


def test_more_samples_continue_and_other_prompts_or_weights_do_not(tmp_path, drawn):
    sampler, starts = drawn
    prompts = [f"prompt {i}" for i in range(9)]
    loop([Mean()], prompts[:6], 3, FeatureCache(tmp_path, {"weights": "w"})).run(sampler)
    starts.clear()
    loop([Mean()], prompts, 3, FeatureCache(tmp_path, {"weights": "w"})).run(sampler)
    assert starts == [6, 7, 8]
    for identity, changed in (({"weights": "x"}, prompts), ({"weights": "w"}, prompts[::-1])):
        starts.clear()
        loop([Mean()], changed, 3, FeatureCache(tmp_path, identity)).run(sampler)
        assert starts == list(range(9))


def test_a_damaged_batch_is_drawn_again(tmp_path, drawn):
    sampler, starts = drawn
    cache = FeatureCache(tmp_path, {})
    prompts = ["a"] * 9
    loop([Mean()], prompts, 3, cache).run(sampler)
    middle = sorted(tmp_path.rglob("*.safetensors"))[1]
    middle.write_bytes(middle.read_bytes()[:50])
    starts.clear()
    loop([Mean()], prompts, 3, cache).run(sampler)
    assert starts == [3, 4, 5]


class Kept:
    """A sink in memory."""

    def __init__(self):
        self.images = {}

    def has(self, start, count):
        return set(range(start, start + count)) <= set(self.images)

    def keep(self, images, prompts, start):
        for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            self.images[start + number] = image, prompt


def test_kept_images_continue_with_the_rows_and_a_lost_one_is_drawn_again(tmp_path, drawn):
    sampler, starts = drawn
    extractor, kept = Mean(), Kept()
    prompts = [f"prompt {i}" for i in range(10)]

    def run():
        starts.clear()
        cache = FeatureCache(tmp_path, {})
        who = SampleLoop({"mean/0": extractor}, prompts, 4, cache, sink=kept)
        return who.run(sampler)

    run()
    assert starts == list(range(10))
    assert [kept.images[i][1] for i in range(10)] == prompts
    assert float(kept.images[7][0].mean()) == pytest.approx(0.07)
    run()
    assert starts == []
    del kept.images[5]
    again = run()
    assert starts == [4, 5, 6, 7]
    assert set(kept.images) == set(range(10))
    assert extractor.seen == 10  # its rows were kept
    assert again.ms_per_image > 0
    np.testing.assert_allclose(again.table.rows("mean/0", 10)[:, 0], np.arange(10) / 100, rtol=1e-6)


def test_images_that_cannot_be_scored_are_not_kept(tmp_path):
    kept, cache = Kept(), FeatureCache(tmp_path, {})
    bad = Sampler(lambda prompts, start, count: torch.full((count, 3, 4, 4), torch.nan), 1, 1.0)
    with pytest.raises(NotFiniteError):
        SampleLoop({"mean/0": Mean()}, ["a"] * 4, 2, cache, sink=kept).run(bad)
    assert kept.images == {}


@pytest.mark.parametrize("error", [RequestError, WorkbenchError])
def test_one_process_stops_at_the_first_problem_and_says_it_as_it_was(tmp_path, drawn, error):
    sampler, starts = drawn

    class Fussy(Mean):
        def extract(self, images, prompts):
            if "b" in prompts:
                raise error("cannot judge 'b'")
            return super().extract(images, prompts)

    prompts = ["a"] * 4 + ["b"] + ["a"] * 15
    with pytest.raises(error, match="cannot judge 'b'") as told:
        loop([Fussy()], prompts, 2, FeatureCache(tmp_path, {})).run(sampler)
    assert type(told.value) is error
    assert starts == list(range(6))
