"""Whole evaluations whose answers are known."""

import json
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
import yaml

from pixel_features import PIXELS, PROTOCOL
from spikediff.data import load_images, to_model_range
from spikediff.errors import UserError
from spikediff.evaluation.features import FEATURES, FeatureSpec
from spikediff.evaluation.features.network import FeatureNetwork
from spikediff.evaluation.plan import EvaluationSettings
from spikediff.evaluation.protocol import protocol_from
from spikediff.evaluation.run import evaluate
from spikediff.evaluation.sources import generated_images, real_images

CONTENT = yaml.safe_load(PROTOCOL)
TRAIN, TEST = load_images("digits", "train"), load_images("digits", "test")


@pytest.fixture(autouse=True)
def _pixels(monkeypatch):
    monkeypatch.setitem(FEATURES, "pixels", PIXELS)


@pytest.fixture
def settings(tmp_path):
    protocol = protocol_from(CONTENT, "test")
    return EvaluationSettings(protocol, "digits", tmp_path / "cache", tmp_path / "work")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The evaluation of a generator of noise."""
    folder = tmp_path_factory.mktemp("whole")
    protocol = protocol_from(CONTENT, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FEATURES, "pixels", PIXELS)
        settings = EvaluationSettings(protocol, "digits", folder / "cache", folder / "work")
        return evaluate(Generator().source(), settings)


class Generator:
    """Image of seed s: noise of that seed. Counts its images; may be interrupted."""

    def __init__(self, interrupt_at=None):
        self.made = 0
        self.interrupt_at = interrupt_at

    def __call__(self, seeds):
        if self.interrupt_at is not None and self.made >= self.interrupt_at:
            raise KeyboardInterrupt
        self.made += len(seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.rand(1, 8, 8, generator=g) for g in generators])

    def source(self, seed=0):
        return generated_images(self, seed, 16, f"noise {seed}", {"first_seed": seed})


def values(result):
    return {name: value["mean"] for name, value in result["metrics"].items()}


def test_the_reference_against_itself_is_perfect(settings):
    settings = replace(settings, num_samples=len(TEST))
    found = values(evaluate(real_images(TEST), settings))
    assert found["pixels/clean/frechet"] == pytest.approx(0, abs=1e-9)
    for name in ("precision", "recall", "coverage"):
        assert found[f"pixels/clean/{name}"] == 1


def test_the_floor_is_the_score_of_real_training_images(settings):
    result = evaluate(real_images(TRAIN, seed=0), settings)
    assert values(result) == result["floor"]
    assert result["counts"] == {
        "judged": 100,
        "wanted": 100,
        "repeats": 1,
        "reference": 355,
        "floor": 100,
    }


def test_noise_is_worse_than_the_floor(whole):
    found, floor = values(whole), whole["floor"]
    for name in ("frechet", "kernel"):
        assert found[f"pixels/clean/{name}"] > 2 * floor[f"pixels/clean/{name}"]
    assert found["pixels/clean/precision"] < floor["pixels/clean/precision"]
    assert found["pixels/clean/recall"] < floor["pixels/clean/recall"]


def test_an_evaluation_is_a_function_of_its_input(whole, settings, tmp_path):
    """Of no folder, and of no number of images that are kept together."""
    again = Generator()
    told = json.dumps(evaluate(again.source(), replace(settings, spool_size=7)))
    assert told == json.dumps(whole)
    assert again.made > 100
    assert str(tmp_path) not in told


def test_generated_images_are_made_once(settings):
    evaluate(Generator().source(), settings)
    again = Generator()
    evaluate(again.source(), settings)
    assert again.made == 1, "the one that is looked at before"


@pytest.mark.parametrize("interrupt_at", [1, 40, 90])
def test_an_interrupted_evaluation_goes_on(interrupt_at, whole, settings):
    fresh = replace(settings, spool_size=16)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Generator(interrupt_at).source(), fresh)
    again = Generator()
    assert evaluate(again.source(), fresh) == whole
    assert again.made <= 1 + 100 - interrupt_at // 16 * 16


def test_a_damaged_shard_changes_nothing(whole, settings):
    evaluate(Generator().source(), replace(settings, spool_size=16))
    shard = next(settings.work_dir.glob("images-*/00002.safetensors"))
    shard.write_bytes(b"\0" * 100)
    for path in settings.work_dir.glob("judged-*/*"):
        path.unlink()
    again = Generator()
    assert evaluate(again.source(), replace(settings, spool_size=16)) == whole
    assert again.made == 1 + 16


def test_repeats_take_other_seeds(whole, settings):
    thrice = evaluate(Generator().source(), replace(settings, repeats=3))
    assert thrice["seeds"] == {"first": 0, "last": 299}
    others = [evaluate(Generator().source(s), settings) for s in (100, 200)]
    single = [values(result) for result in (whole, *others)]
    for name, spread in thrice["metrics"].items():
        each = [found[name] for found in single]
        assert spread["values"] == each
        assert spread["mean"] == pytest.approx(fmean(each), rel=1e-5)
        assert spread["std"] == pytest.approx(stdev(each), rel=1e-3, abs=1e-9)


def test_fewer_samples_than_the_protocol_asks_for_is_said(whole, settings):
    result = evaluate(Generator().source(), replace(settings, num_samples=30))
    assert result["complete"] is False
    assert result["counts"]["judged"] == 30
    assert any("30 samples instead of 100" in note for note in result["notes"])
    assert any("kernel: subsets of 15 instead of 20" in note for note in result["notes"])
    assert any("singular" in note for note in result["notes"]), "30 images, 64 dimensions"
    assert whole["complete"] is True


def test_no_more_than_the_reference_holds_where_the_protocol_says_so(settings):
    content = CONTENT | {"num_samples": 400, "at_most_reference": True}
    limited = replace(settings, protocol=protocol_from(content, "test"))
    assert evaluate(real_images(TRAIN), limited)["counts"]["wanted"] == 355


def test_only_the_first_images_of_the_reference_count(settings):
    content = CONTENT | {"reference_images": 100}
    result = evaluate(
        real_images(TEST, limit=100), replace(settings, protocol=protocol_from(content, "test"))
    )
    assert result["counts"]["reference"] == 100
    assert values(result)["pixels/clean/frechet"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_samples": 1}, "too few"),
        ({"num_samples": 5}, "needs 6"),
        ({"num_samples": 400}, "holds 355 images.*--num-samples 355"),
        ({"repeats": 4}, "x 4 repeats.*--num-samples 88"),
        ({"repeats": 100}, "x 100 repeats.*give fewer --repeats"),
        ({"repeats": 0}, "at least 1"),
        ({"features": ("pixles",)}, "did you mean 'pixels'"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
    ],
)
def test_what_cannot_be_done_is_told_first(change, word, settings):
    with pytest.raises(UserError, match=word):
        evaluate(real_images(TEST), replace(settings, **change))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"reference_images": 4}, "the reference has 4 images; protocol pixels needs 6"),
        ({"inception_splits": 1500, "num_samples": 1600}, "the floor has 1442 images"),
    ],
)
def test_too_few_real_images_are_told_first(change, word, settings):
    generator = Generator()
    settings = replace(settings, protocol=protocol_from(CONTENT | change, "test"))
    with pytest.raises(UserError, match=word):
        evaluate(generator.source(), settings)
    assert generator.made <= 1  # to see its size


def test_statistics_serve_the_published_mode_alone(settings, tmp_path):
    with pytest.raises(UserError, match="omit --statistics"):
        evaluate(Generator().source(), replace(settings, statistics=tmp_path / "s.npz"))


def test_a_diverged_generator_is_told(settings):
    def diverged(seeds):
        return torch.full((len(seeds), 1, 8, 8), torch.nan)

    with pytest.raises(UserError, match="diverged"):
        evaluate(generated_images(diverged, 0, 16, "n", {}), settings)


def test_a_network_without_classes_has_no_inception_score(settings, monkeypatch):
    def grey(**_):
        return FeatureNetwork(torch.nn.Flatten(), name="module:grey", image_size=8, channels=1)

    monkeypatch.setitem(FEATURES, "pixels", FeatureSpec("", grey))
    generator = Generator()
    with pytest.raises(UserError, match="no class probabilities; remove inception_score"):
        evaluate(generator.source(), settings)
    assert generator.made == 0


def test_grey_images_in_a_colour_network_are_noted(settings, monkeypatch):
    def colour(**_):
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.AvgPool1d(12))
        return FeatureNetwork(module, name="module:colour", image_size=8, channels=3)

    monkeypatch.setitem(FEATURES, "pixels", FeatureSpec("", colour))
    part = {"network": "pixels", "metrics": ["frechet"]}
    protocol = protocol_from(CONTENT | {"measurements": [part]}, "test")
    result = evaluate(Generator().source(), replace(settings, protocol=protocol))
    assert (
        "pixels/clean, judged images: the grey channel is repeated three times" in result["notes"]
    )


def test_statistics_are_checked_before_an_image_is_made(settings, monkeypatch, tmp_path):
    def published(**_):
        module = torch.nn.Flatten()
        return FeatureNetwork(module, name="module:p", image_size=8, channels=1)

    row = FeatureSpec("", published, modes=("published",))
    monkeypatch.setitem(FEATURES, "pixels", row)
    part = {"network": "pixels", "mode": "published", "metrics": ["frechet"]}
    protocol = protocol_from(CONTENT | {"measurements": [part]}, "test")
    settings = replace(settings, protocol=protocol)
    pixels = to_model_range(TEST.stack()).flatten(1).double().numpy()
    path = tmp_path / "s.npz"
    np.savez(path, mu=pixels.mean(axis=0), sigma=np.cov(pixels.T))
    without = values(evaluate(Generator().source(), settings))
    found = evaluate(Generator().source(), replace(settings, statistics=path))
    assert values(found) == pytest.approx(without, rel=1e-5)
    assert found["reference"]["statistics"]["name"] == "s.npz"
    np.savez(path, mu=pixels.mean(axis=0) + 1, sigma=np.cov(pixels.T))
    generator = Generator()
    with pytest.raises(UserError, match="another data set"):
        evaluate(generator.source(seed=5), replace(settings, statistics=path))
    assert generator.made == 1
