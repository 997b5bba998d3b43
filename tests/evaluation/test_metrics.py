"""Every metric keeps the contract of the table, and a new row is a whole new metric."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml

from pixel_features import PIXELS, PROTOCOL
from spikediff.cli import main
from spikediff.evaluation.features import FEATURES
from spikediff.evaluation.metrics import METRICS, Metric
from spikediff.evaluation.protocol import protocol_from

CONTENT = yaml.safe_load(PROTOCOL)


@pytest.fixture(autouse=True)
def _pixels(monkeypatch):
    monkeypatch.setitem(FEATURES, "pixels", PIXELS)


@pytest.fixture
def evaluate(tmp_path):
    def run(metric, num_samples=40):
        measurements = [{"network": "pixels", "metrics": [metric]}]
        protocol = tmp_path / "p.yaml"
        protocol.write_text(yaml.safe_dump(CONTENT | {"measurements": measurements}))
        told = tmp_path / "told.json"
        command = ["evaluate", "data:digits/train", "--dataset", "digits", "--json", str(told)]
        options = ["--protocol", str(protocol), "--num-samples", str(num_samples)]
        code = main([*command, *options, "--cache-dir", str(tmp_path / "cache")])
        return code, json.loads(told.read_text()) if code == 0 else None

    return run


@pytest.mark.parametrize("name", METRICS)
def test_contract(name, evaluate):
    _, result = evaluate(name)
    found = {key.split("/")[-1]: value["mean"] for key, value in result["metrics"].items()}
    assert set(METRICS[name].lower_is_better) <= set(found)
    assert all(map(math.isfinite, found.values()))


@pytest.mark.parametrize("name", METRICS)
def test_too_few_images_are_refused(name, evaluate, capsys):
    assert evaluate(name, num_samples=1)[0] == 2
    assert "too few" in capsys.readouterr().err


def test_an_inception_score_near_its_bound_is_told():
    sure, protocol = SimpleNamespace(probabilities=lambda: torch.eye(8)), protocol_from(CONTENT, "")
    with pytest.warns(UserWarning, match="8 images in 2 parts give at most 4; take more images"):
        METRICS["inception_score"].compute(sure, sure, protocol)


def test_no_two_metrics_return_a_number_of_one_name():
    numbers = [number for metric in METRICS.values() for number in metric.lower_is_better]
    assert len(set(numbers)) == len(numbers)


def test_a_row_is_all_that_a_new_metric_needs(evaluate, monkeypatch, capsys):
    def mean_shift(fake, real, _protocol):
        shift = fake.features().mean(0) - real.features().mean(0)
        return {"mean_shift": shift.norm().item()}

    monkeypatch.setitem(METRICS, "mean_shift", Metric(mean_shift, {"mean_shift": True}))
    code, result = evaluate("mean_shift")
    assert code == 0
    assert result["metrics"]["pixels/clean/mean_shift"]["mean"] > 0
    assert main(["guide", "digits", "--metric", "mean_shfit"]) == 2
    assert "did you mean 'mean_shift'" in capsys.readouterr().err
