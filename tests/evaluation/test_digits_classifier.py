from __future__ import annotations

import pytest
import torch

from workbench.data.bundled import DIGITS
from workbench.errors import RequestError
from workbench.evaluation import FeatureStatistics, frechet_distance
from workbench.evaluation.digits_classifier import (
    ClassifierRecipe,
    DigitAlignment,
    as_digits,
    load_or_train,
    train,
)


def test_recognises_held_out_digits(classifier, digits):
    assert classifier.accuracy >= 0.97
    images, labels = digits
    held_out = torch.arange(len(labels)) % classifier.recipe.held_out_every == 0
    guesses = classifier.log_probabilities(images[held_out]).argmax(dim=1)
    assert (guesses == labels[held_out]).float().mean().item() == pytest.approx(classifier.accuracy)


def test_log_probabilities_are_normalised_and_features_are_their_penultimate(classifier, digits):
    images = digits[0][:20]
    log_probabilities = classifier.log_probabilities(images)
    torch.testing.assert_close(log_probabilities.exp().sum(1), torch.ones(20))
    features = classifier.features(images)
    assert features.shape == (20, classifier.dimension) == (20, 64)
    torch.testing.assert_close(
        torch.log_softmax(classifier.head(features), dim=1), log_probabilities
    )


def test_sees_gray_area_averages_only(classifier, random):
    """Block means and the channels' mean decide; what else differs is invisible."""
    small = torch.rand(4, 1, 8, 8, generator=random) * 0.5 + 0.25
    images = small.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1).clone()
    torch.testing.assert_close(as_digits(images), small)
    tint = torch.tensor([0.1, 0.1, -0.2])[:, None, None]
    checker = 0.05 * (((torch.arange(32)[:, None] + torch.arange(32)) % 2) * 2.0 - 1.0)
    torch.testing.assert_close(
        classifier.features(images + tint + checker), classifier.features(images)
    )


def test_training_is_deterministic_whatever_the_number_of_threads(digits):
    recipe = ClassifierRecipe(epochs=1)
    data = as_digits(digits[0][:400]), digits[1][:400]
    threads = torch.get_num_threads()
    first = train(recipe, *data)
    torch.set_num_threads(max(1, threads - 1))
    torch.manual_seed(123)
    second = train(recipe, *data)
    torch.set_num_threads(threads)
    assert first.fingerprint == second.fingerprint
    assert train(ClassifierRecipe(epochs=1, seed=1), *data).fingerprint != first.fingerprint


def test_cache_returns_the_same_bits_without_training(cache_dir, classifier, digits, monkeypatch):
    def forbidden(*_):
        raise AssertionError("trained although cached")

    monkeypatch.setattr("workbench.evaluation.digits_classifier.train", forbidden)
    again = load_or_train(cache_dir)
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert again.fingerprint == classifier.fingerprint
    assert again.accuracy == classifier.accuracy
    assert torch.equal(again.features(digits[0][:50]), classifier.features(digits[0][:50]))
    with pytest.raises(AssertionError, match="trained although cached"):
        load_or_train(cache_dir, ClassifierRecipe(epochs=21))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_cache_is_rebuilt(cache_dir, classifier, tmp_path, monkeypatch, damage):
    (file,) = cache_dir.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-100] ^= 0x40
    kept = {"cut": len(content) // 2, "flipped": len(content), "empty": 0}[damage]
    (tmp_path / file.name).write_bytes(content[:kept])
    trained = []

    def known(*arguments):
        trained.append(arguments)
        return classifier

    monkeypatch.setattr("workbench.evaluation.digits_classifier.train", known)
    assert load_or_train(tmp_path).fingerprint == classifier.fingerprint
    assert len(trained) == 1
    assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_alignment_of_true_and_of_wrong_prompts(classifier, digits, random):
    images, labels = digits
    scorer = DigitAlignment(classifier)
    prompts = [DIGITS.prompts_of(int(label))[i % 6] for i, label in enumerate(labels)]
    true = scorer.extract(images, prompts)
    assert true.shape == (1797, 1)
    assert true.mean() > 0.95
    order = torch.randperm(1797, generator=random)
    shuffled = scorer.extract(images, [prompts[i] for i in order])
    assert shuffled.mean() == pytest.approx(0.1, abs=0.03)
    others = [DIGITS.prompts_of((int(label) + 1) % 10)[0] for label in labels]
    assert scorer.extract(images, others).mean() < 0.02
    with pytest.raises(RequestError, match="no digit"):
        scorer.extract(images[:1], ["a cat"])


def test_distance_orders_what_the_eye_orders(classifier, digits, random):
    images, labels = digits

    def statistics(some):
        return FeatureStatistics.from_features(classifier.features(some))

    real = statistics(images)
    order = torch.randperm(1797, generator=random)
    halves = frechet_distance(statistics(images[order[:898]]), statistics(images[order[898:]]))
    grain = torch.randn(images.shape, generator=random)
    slight = frechet_distance(real, statistics((images + 0.4 * grain).clamp(0, 1)))
    strong = frechet_distance(real, statistics((images + 1.6 * grain).clamp(0, 1)))
    noise = frechet_distance(real, statistics(torch.rand(images.shape, generator=random)))
    one_digit = frechet_distance(real, statistics(images[labels == 3]))
    assert frechet_distance(real, real) == pytest.approx(0.0, abs=1e-9)
    assert 0.1 < halves < 2.0
    assert slight < strong < noise
    assert min(noise, one_digit) > 20 * halves
