from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.data.bundled import DIGITS
from workbench.data.images import list_images
from workbench.errors import RequestError
from workbench.evaluation import FeatureExtractors, make_metrics, open_reference
from workbench.evaluation.digits_classifier import one_thread
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.images import Preparation, check_equal_sizes, read_images
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.reference_build import BuildRequest, build_reference, captioned_images
from workbench.evaluation.references import BundledReference
from workbench.workspace import open_workspace


@pytest.fixture
def place(tmp_path):
    return open_workspace(tmp_path / "workspace")


@pytest.fixture
def extractors(cache_dir, tmp_path):
    return FeatureExtractors(cache_dir, WeightFiles(tmp_path / "weights"), torch.device("cpu"))


@pytest.fixture
def photos(tmp_path):
    """Twelve images of mixed sizes, and a caption for each."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        shape = (40 + 3 * number, 64 - number, 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(
            folder / f"{number:02d}.png"
        )
    captions = tmp_path / "captions.txt"
    captions.write_text("".join(f"the digit {number % 10}\n" for number in range(12)))
    return folder, captions


def request(photos, name="real", **more):
    folder, captions = photos
    return BuildRequest(name, folder, captions, 32, ("digits",), **more)


def test_images_that_would_be_read_wrongly_are_refused(tmp_path):
    deep, broken = tmp_path / "deep.png", tmp_path / "broken.png"
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(deep)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:6000])
    with pytest.raises(RequestError, match=r"deep\.png has more than 8 bits a channel"):
        read_images([deep])
    with pytest.raises(RequestError, match=r"broken\.png cannot be read as an image"):
        read_images([broken])


def test_captions_that_are_not_those_of_the_build_are_refused(place, photos, extractors):
    built = build_reference(place, request(photos), extractors)
    assert len(open_reference(place, "real").captions) == 12
    file = built.folder / "captions.json"
    file.write_text(json.dumps(["the digit 1"] * 12))
    with pytest.raises(RequestError, match="not those that the reference was built with"):
        open_reference(place, "real").prompts(2)
    file.write_text("[")
    with pytest.raises(RequestError, match="is damaged"):
        open_reference(place, "real").prompts(2)


def test_preparation_is_the_middle_square_resized(photos):
    file = photos[0] / "05.png"  # 55 high, 59 wide
    whole = np.asarray(Image.open(file))
    square = Image.fromarray(whole[:, 2:57]).resize((32, 32), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1) / 255
    assert torch.equal(read_images([file], Preparation(32))[0], expected)
    assert torch.equal(Preparation(32).of_images(read_images([file]))[0], expected)
    fits = torch.rand(2, 3, 32, 32)
    assert Preparation(32).of_images(fits) is fits


def test_a_reference_holds_what_the_network_sees_in_the_prepared_images(
    place, extractors, photos, classifier
):
    built = build_reference(place, request(photos, batch_size=5), extractors)
    reference = open_reference(place, "real")
    seen = reference.rows("digits", reference.adapt(extractors.find("digits")))
    images = read_images(list_images(photos[0]), Preparation(32))
    np.testing.assert_allclose(seen.rows, classifier.features(images), atol=1e-5)
    np.testing.assert_allclose(seen.statistics.covariance, np.cov(seen.rows.T), atol=1e-6)
    factor = seen.statistics.known_factor
    np.testing.assert_allclose(factor @ factor.T, seen.statistics.covariance, atol=1e-8)
    assert reference.prompts(12)[11] == "the digit 1"
    assert built.identity == open_reference(place, "real").identity
    with pytest.raises(RequestError, match="has 12 captions, not 13"):
        reference.prompts(13)


def test_samples_of_another_size_are_prepared_alike(place, extractors, photos):
    build_reference(place, request(photos), extractors)
    reference = open_reference(place, "real")
    (fid,) = make_metrics(["fid"], reference, extractors)
    large = torch.rand(6, 3, 48, 64)
    small = Preparation(32).of_images(large)
    assert torch.equal(
        fid.extractor.extract(large, [""] * 6), fid.extractor.extract(small, [""] * 6)
    )


def test_the_choice_is_seeded_and_smaller_ones_are_parts_of_larger(place, extractors, photos):
    five, nine, other = (
        build_reference(place, request(photos, f"r{n}-{seed}", samples=n, seed=seed), extractors)
        for n, seed in ((5, 0), (9, 0), (9, 1))
    )
    assert five.captions == nine.captions[:5]
    assert nine.captions != other.captions
    assert nine.record.selection.startswith("9 of 12 images, seed 0")


def test_a_name_is_taken_once_and_networks_may_be_added(place, extractors, photos, tmp_path):
    first = build_reference(place, request(photos), extractors)
    assert build_reference(place, request(photos), extractors).identity == first.identity
    with pytest.raises(RequestError, match="is there already, of other images"):
        build_reference(place, request(photos, samples=6), extractors)
    with pytest.raises(RequestError, match="has no cmmd_features features, only digits"):
        open_reference(place, "real").rows("cmmd_features", extractors.find("digits"))
    record = place.root / "references" / "real" / "reference.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "networks": {"digits": "digits/other"}}))
    with pytest.raises(RequestError, match="made with other settings"):
        make_metrics(["fid"], open_reference(place, "real"), extractors)


def test_an_interrupted_build_continues(place, extractors, photos, monkeypatch):
    read = []

    def counting(files, preparation):
        if len(read) >= 6 and "stop" in read:
            raise KeyboardInterrupt
        read.extend(files)
        return read_images(files, preparation)

    monkeypatch.setattr("workbench.evaluation.reference_build.read_images", counting)
    read.append("stop")
    with pytest.raises(KeyboardInterrupt):
        build_reference(place, request(photos, batch_size=3), extractors)
    with pytest.raises(RequestError, match="Unknown reference 'real'"):
        open_reference(place, "real")
    read.clear()
    build_reference(place, request(photos, batch_size=3), extractors)
    assert [file.name for file in read] == [f"{number:02d}.png" for number in range(6, 12)]


def test_coco_is_recognised_and_its_first_captions_are_taken(tmp_path, photos):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    images, notes = [], []
    for number in range(4):
        name = f"COCO_val2014_{number:012d}.jpg"
        Image.new("RGB", (20, 30)).save(root / "val2014" / name)
        images.append({"id": 70 - number, "file_name": name})
        notes += [
            {"id": 9 * number + k, "image_id": 70 - number, "caption": f" {number}, note {k}\n"}
            for k in (3, 1, 2)
        ]
    file = root / "annotations" / "captions_val2014.json"
    file.write_text(json.dumps({"images": images, "annotations": notes}))
    found = captioned_images(root, None)
    assert found.captions == tuple(f"{number}, note 1" for number in range(4))
    assert [path.name for path in found.files] == [image["file_name"] for image in images]
    assert captioned_images(root / "val2014", file) == found
    (root / "val2014" / images[2]["file_name"]).unlink()
    with pytest.raises(RequestError, match=r"1 captioned images are not there.*000002"):
        captioned_images(root, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "one\ntwo\n", "has 2 lines, .* 12 images"),
        ("c.jsonl", '{"file": "00.png", "caption": "x"}\n', "11 images without a caption.*01.png"),
        ("c.jsonl", '{"file": "00.png"}\n', 'line 1 is not {"file"'),
        ("c.jsonl", "no json\n", "is not JSON"),
        ("c.json", "{}", "neither COCO annotations nor a list"),
        ("c.json", '{"images": [{"id": 1}], "annotations": []}', "no COCO annotation file"),
        ("c.xml", "x", "Unknown type of caption file '.xml'"),
    ],
)
def test_captions_that_do_not_match_are_refused(photos, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError, match=message):
        captioned_images(photos[0], tmp_path / name)


def test_named_captions_follow_the_files(photos, tmp_path):
    rows = [{"file": f"{n:02d}.png", "caption": f"caption {n}"} for n in reversed(range(12))]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    found = captioned_images(photos[0], tmp_path / "c.json")
    assert found.captions == tuple(f"caption {n}" for n in range(12))


def test_images_that_cannot_be_used_are_named(place, extractors, photos, tmp_path):
    with pytest.raises(RequestError, match=r"mixed sizes: .*00.png is 64 x 40, .*01.png is 63 x"):
        check_equal_sizes(list_images(photos[0]))
    with pytest.raises(RequestError, match="has 12 images: a reference takes 2 to 12"):
        build_reference(place, request(photos, samples=13), extractors)
    broken = photos[0] / "03.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(RequestError, match=r"03\.png cannot be read as an image"):
        build_reference(place, request(photos), extractors)
    with pytest.raises(RequestError, match="There is no folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="holds no images"):
        list_images(tmp_path / "empty")


def test_a_reference_too_small_for_a_metric_is_refused(place, extractors, photos):
    for count in (2, 3):
        build_reference(place, request(photos, f"r{count}", samples=count), extractors)
        reference = open_reference(place, f"r{count}")
        with pytest.raises(
            RequestError,
            match=f"precision needs at least 4 images in its reference, and r{count} has {count}",
        ):
            make_metrics(["precision"], reference, extractors)
        # Recall asks for neighbours of the samples alone.
        (recall,) = make_metrics(["recall"], reference, extractors)
        assert recall.compute(reference.rows("digits", recall.extractor).rows.repeat(4, 0)) == 1.0
    build_reference(place, request(photos, "r4", samples=4), extractors)
    (precision,) = make_metrics(["precision"], open_reference(place, "r4"), extractors)
    assert np.isfinite(precision.reference.radii).all()


def test_a_file_of_weights_that_nobody_asks_for_is_refused(place, cache_dir, photos, tmp_path):
    files = WeightFiles(tmp_path / "weights", {"inception": tmp_path / "mine.pt"})
    extractors = FeatureExtractors(cache_dir, files, torch.device("cpu"))
    with pytest.raises(RequestError, match=r"--weights inception=.* needs the weights of no netw"):
        build_reference(place, request(photos), extractors)
    assert not (place.root / "references" / "real").exists()


class OnDevice:
    """Rows as a device has them: no array without a copy to the CPU."""

    def __init__(self, rows):
        self._rows = rows

    def cpu(self):
        return self._rows

    def numpy(self):
        raise TypeError("can't convert a device's tensor to numpy")


def test_the_digits_are_shown_to_a_network_in_batches_and_its_rows_fetched(classifier):
    sizes = []

    class Network(FeatureExtractor):
        name, fingerprint, dimension = "network", "0", 64

        def extract(self, images, prompts):
            assert len(images) == len(prompts)
            sizes.append(len(images))
            return OnDevice(classifier.features(images))

    found = BundledReference(DIGITS).rows("inception", Network()).rows
    images = DIGITS.images(32)
    np.testing.assert_allclose(found, classifier.features(images), atol=1e-5)
    assert max(sizes) <= 64
    assert sum(sizes) == 1797


def test_the_classifier_sees_all_digits_at_once_in_one_thread(classifier):
    """Its rows' hash is in the fingerprint of every score of a run: they keep every bit."""
    images = DIGITS.images(32)
    with one_thread():
        expected = classifier.features(images).numpy()
    found = BundledReference(DIGITS).rows("digits", classifier)
    np.testing.assert_array_equal(found.rows, expected)
    seen = []

    class Spy(FeatureExtractor):
        name, fingerprint, dimension = classifier.name, classifier.fingerprint, 64

        def extract(self, images, prompts):
            seen.append((len(images), torch.get_num_threads()))
            return classifier.extract(images, prompts)

    assert BundledReference(DIGITS).rows("digits", Spy()).fingerprint == found.fingerprint
    assert seen == [(1797, 1)]
