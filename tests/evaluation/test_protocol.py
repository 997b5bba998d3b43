"""Protocols: those of the papers say what the papers did, and a mistake in one is told."""

import json
from dataclasses import asdict

import pytest

from spikediff.errors import UserError
from spikediff.evaluation.features import FEATURES
from spikediff.evaluation.metrics import METRICS
from spikediff.evaluation.protocol import load_protocol, protocol_from, protocol_names

SMALL = {
    "name": "small",
    "summary": "s",
    "caveat": "c",
    "num_samples": 10,
    "measurements": [{"network": "classifier", "metrics": ["frechet"]}],
}


@pytest.mark.parametrize("name", protocol_names())
def test_a_shipped_protocol_asks_for_what_there_is(name):
    protocol = load_protocol(name)
    assert protocol.name == name
    assert len(protocol.caveat) > 100
    for part in protocol.measurements:
        assert part.mode in FEATURES[part.network].modes
        assert set(part.metrics) <= set(METRICS)
    keys = [part.key for part in protocol.measurements]
    assert len(set(keys)) == len(keys)
    assert json.loads(json.dumps(asdict(protocol)))["caveat"] == protocol.caveat


def test_papers_differ_where_they_differed():
    sddpm, fsddim, spiking = map(load_protocol, ("sddpm", "fsddim", "spiking-diffusion"))
    assert (sddpm.num_samples, sddpm.reference_split, sddpm.inception_splits) == (
        50000,
        "train",
        10,
    )
    assert (fsddim.num_samples, fsddim.reference_split) == (10000, "test")
    assert (spiking.num_samples, spiking.reference_images, spiking.inception_splits) == (
        1280,
        1280,
        4,
    )
    assert fsddim.measurements[0].key == "fad/published"
    assert all(part.mode == "clean" for part in load_protocol("fair").measurements)


def test_the_fewest_samples_follow_from_the_metrics():
    fair = load_protocol("fair")
    fad = [part for part in fair.measurements if part.network == "fad"]
    assert fair.fewest_samples(fad) == 2
    assert protocol_from(SMALL | {"inception_splits": 3}, "x").fewest_samples([]) == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_sample": 3}, "did you mean 'num_samples'"),
        ({"num_samples": "many"}, "must be of type int"),
        ({"num_samples": True}, "must be of type int"),
        ({"num_samples": 0}, "at least 1"),
        ({"kernel_subset_size": 1}, "at least 2"),
        ({"reference_images": 0}, "at least 1"),
        ({"measurements": []}, "measurements is empty"),
        ({"measurements": ["fad"]}, "must hold keys and values"),
        ({"measurements": [{"network": "fad"}]}, "missing: measurements[0].metrics"),
        ({"measurements": [{"network": "fad", "metrics": []}]}, "fad: metrics is empty"),
        ({"measurements": [{"network": "fad", "metrics": ["fid"]}]}, "unknown metric 'fid'"),
        (
            {"measurements": [{"network": "fad", "metrics": ["frechet"], "mode": "clear"}]},
            "did you mean 'clean'",
        ),
        ({"resize_filter": "bilinaer"}, "did you mean 'bilinear'"),
    ],
)
def test_a_mistake_is_told(change, word):
    with pytest.raises(UserError) as error:
        protocol_from(SMALL | change, "here.yaml")
    assert word in str(error.value)
    assert str(error.value).startswith("here.yaml")


def test_a_missing_key_is_named():
    with pytest.raises(UserError, match="missing: caveat"):
        protocol_from({k: v for k, v in SMALL.items() if k != "caveat"}, "here.yaml")


def test_files_that_are_no_protocols(tmp_path):
    with pytest.raises(UserError, match="did you mean 'fair'"):
        load_protocol("fare")
    with pytest.raises(UserError, match="cannot be read"):
        load_protocol(str(tmp_path / "absent.yaml"))
    (tmp_path / "p.yaml").write_text("{")
    with pytest.raises(UserError, match="not a YAML file"):
        load_protocol(str(tmp_path / "p.yaml"))
    (tmp_path / "q.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must hold keys and values"):
        load_protocol(str(tmp_path / "q.yaml"))
