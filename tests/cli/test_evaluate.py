"""`spikediff evaluate` as a user types it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spikediff as sd
from pixel_features import PIXELS, PROTOCOL
from sizes import ONE_LEVEL
from small_pipelines import made
from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.evaluation.features import FEATURES
from spikediff.evaluation.sources import pipeline_images
from spikediff.native import native
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training import recipe_from, save_recipe

PROGRAM = f"""
import sys
import torch
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
torch.set_num_threads(1)
import pixel_features
pixel_features.install()
from spikediff.cli import main
sys.exit(main(sys.argv[1:]))
"""
STEPS = ["--num-inference-steps", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run folder with a pipeline of random weights."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    unet = SpikingUNet(**ONE_LEVEL)
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.save_pretrained(folder / "pipeline")
    save_recipe(recipe_from({"name": "tiny"}, "test"), folder / "recipe.yaml")
    return folder


@pytest.fixture(autouse=True)
def _pixels(monkeypatch):
    monkeypatch.setitem(FEATURES, "pixels", PIXELS)


@pytest.fixture
def common(tmp_path):
    (tmp_path / "pixels.yaml").write_text(PROTOCOL)
    protocol = ["--protocol", str(tmp_path / "pixels.yaml")]
    return [*protocol, "--num-samples", "24", "--cache-dir", str(tmp_path / "cache")]


def evaluate(source, *options, to):
    assert main(["evaluate", str(source), *map(str, options), "--json", str(to)]) == 0
    return to.read_bytes()


def test_a_model_and_the_images_that_it_sampled_score_the_same(model, common, tmp_path, capsys):
    told = evaluate(model, *common, *STEPS, to=tmp_path / "a.json")
    said = capsys.readouterr().out
    sample = ["--num-images", "24", "--no-gif", "--output", str(tmp_path / "png")]
    assert main(["sample", str(model), *sample, *STEPS]) == 0
    pixels = [np.array(Image.open(p)) for p in sorted((tmp_path / "png").glob("seed-*.png"))]
    np.savez(tmp_path / "x.npz", images=np.stack(pixels))
    result = json.loads(told)
    for source in (tmp_path / "png", tmp_path / "x.npz"):
        other = json.loads(evaluate(source, *common, "--dataset", "digits", to=tmp_path / "b.json"))
        assert other["metrics"] == result["metrics"]
        assert other["floor"] == result["floor"]
        assert other["seeds"] is None
    assert result["seeds"] == {"first": 0, "last": 23}
    assert result["source"]["scheduler"] == "DDIMScheduler"
    assert result["dataset"] == "digits"
    assert list(result) == sorted(result)
    for name in result["metrics"]:
        assert name in said
    assert "Caveat: pixels are no features" in said


def test_the_same_bytes_whatever_the_batch_and_the_folders(model, common, tmp_path):
    first = evaluate(model, *common, *STEPS, to=tmp_path / "a.json")
    assert evaluate(model, *common, *STEPS, to=tmp_path / "b.json") == first
    options = ["--batch-size", "5", "--work-dir", tmp_path / "w", *STEPS]
    moved = shutil.copytree(model, tmp_path / "moved")
    assert evaluate(moved, *common, *options, to=tmp_path / "c.json") == first
    assert str(tmp_path).encode() not in first
    assert evaluate(model, *common, *STEPS, "--seed", 1, to=tmp_path / "d.json") != first
    other = evaluate(model, *common, *STEPS, "--scheduler", "ddpm", to=tmp_path / "e.json")
    assert other != first


def test_real_images_are_at_the_floor(common, tmp_path):
    options = ["--dataset", "digits"]
    result = json.loads(evaluate("data:digits/train", *common, *options, to=tmp_path / "a.json"))
    assert {k: v["mean"] for k, v in result["metrics"].items()} == result["floor"]
    told = tmp_path / "told.json"
    short = {"num_samples": 24, "cache_dir": str(tmp_path / "cache"), "json": told}
    protocol = str(tmp_path / "pixels.yaml")
    sd.evaluate("data:digits/train", protocol, dataset="digits", features="pixels", **short)
    assert told.read_bytes() == (tmp_path / "a.json").read_bytes()


BAD = [
    (["absent"], "absent: no such folder"),
    (["absent", "--dataset", "digits"], "absent: no such folder"),
    (["MODEL", "--protocol", "fare"], "did you mean 'fair'"),
    (["MODEL", "--num-samples", "1"], "too few"),
    (["MODEL", "--num-samples", "0"], "--num-samples 0 must be at least 1"),
    (["MODEL", "--repeats", "0"], "--repeats 0 must be at least 1"),
    (["MODEL", "--seed", "-1"], "--seed -1 must be at least 0"),
    (["MODEL", "--dataset", "mnist"], "give data_dir (--data-dir), a folder"),
    (["MODEL", "--scheduler", "dimm"], "did you mean 'ddim'"),
    (["MODEL", "--device", "tpu"], "device"),
    (
        ["data:digits/train", "--dataset", "digits", "--event-driven"],
        "the source is existing images",
    ),
    (["data:digits/train", "--dataset", "digits", "--scheduler", "ddim"], "--scheduler: only for"),
    (["data:digits/train", "--dataset", "digits", *STEPS], "--num-inference-steps: only for"),
    (["MODEL", "--image-size", "0"], "--image-size 0 must be at least 1"),
    (["MODEL", "--channels", "1"], "--channels: digits is compared in its own size; omit it"),
    (["TOKENS", "--dataset", "digits", "--threshold", "0.9"], "no image denoiser to guide"),
    (["MODEL", "--event-driven", "--device", "cuda"], "only on the CPU"),
    (["MODEL", "--event-driven-weights", "int8"], "needs --event-driven"),
    (["MODEL", "--features", "fadd"], "has no features 'fadd'"),
    (["MODEL", "--feature-weights", "absent.pth"], "no such file"),
    (["MODEL", "--statistics", "absent.npz"], "omit --statistics"),
    (["MODEL", "--protocol", "fsddim"], "fad has no published weights for digits"),
    (["data:digits/train", "--dataset", "digits", "--num-samples", "2000"], "holds 1442 images"),
]


@pytest.mark.parametrize(("arguments", "word"), BAD, ids=lambda x: " ".join(x)[:60])
def test_bad_input_gets_one_line_and_code_2(arguments, word, model, common, tmp_path, capsys):
    if "TOKENS" in arguments:
        made("tokens").save_pretrained(tmp_path / "tokens")
    places = {"MODEL": str(model), "TOKENS": str(tmp_path / "tokens")}
    arguments = [places.get(a, a) for a in arguments]
    arguments += [a for i in (0, 2, 4) if common[i] not in arguments for a in common[i : i + 2]]
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "out.json")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("spikediff: error")
    assert word in lines[0]
    assert not (tmp_path / "out.json").exists()
    assert not (tmp_path / "cache" / "work").exists()


def test_event_driven_images_are_kept_apart(model, common, tmp_path):
    plain = json.loads(evaluate(model, *common, *STEPS, to=tmp_path / "a.json"))
    work = tmp_path / "cache" / "work"
    before = set(work.rglob("*"))
    options = [*common, *STEPS, "--event-driven"]
    result = json.loads(evaluate(model, *options, to=tmp_path / "b.json"))
    assert set(work.rglob("*")) > before, "made anew, not read"
    assert result["source"]["event_driven"] is True
    assert "event_driven" not in plain["source"]
    for name, value in result["metrics"].items():
        assert value["mean"] == pytest.approx(plain["metrics"][name]["mean"], rel=1e-3)


def test_a_fingerprint_knows_of_event_driven_where_no_weight_tells():
    """A network without a norm to fold keeps its weights."""
    unet = ddpm_unet(**ONE_LEVEL).eval()

    def pipe():
        return SpikingDiffusionPipeline(unet, make_scheduler("ddim"))

    sources = [pipeline_images(pipe()), pipeline_images(pipe().compile_for_inference())]
    if native() is not None:
        sources.append(pipeline_images(pipe().compile_for_inference("int8")))
        assert sources[2].description["event_weights"] == "int8"
    assert "event_weights" not in sources[1].description
    assert len({source.description["weights_sha256"] for source in sources}) == 1
    assert len({source.fingerprint for source in sources}) == len(sources)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_bytes(model, common, tmp_path):
    common += ["--num-inference-steps", "2"]
    whole = evaluate(model, *common, to=tmp_path / "a.json")
    shards = tmp_path / "work"
    options = [*common, "--work-dir", str(shards), "--batch-size", "1"]
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), "evaluate", str(model), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: len(list(shards.glob("images-*/0*"))) >= 3)
        process.send_signal(signal.SIGKILL)
    made = {path: path.stat().st_mtime_ns for path in shards.glob("images-*/0*")}
    assert 3 <= len(made) < 24
    assert evaluate(model, *options, to=tmp_path / "b.json") == whole
    assert all(path.stat().st_mtime_ns == at for path, at in made.items()), "made again"


def wait_for(condition, seconds=60):
    for _ in range(seconds * 100):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(model, common, tmp_path):
    one = evaluate(model, *common, *STEPS, "--batch-size", 5, to=tmp_path / "a.json")
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = ["torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", "localhost:0", str(tmp_path / "program.py")]
    options = [*common, *STEPS, "--batch-size", "5", "--work-dir", str(tmp_path / "w")]
    options += ["--json", str(tmp_path / "b.json"), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "evaluate", str(model), *options],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "b.json").read_bytes() == one
    assert done.stdout.count("protocol pixels") == 1


@pytest.mark.slow
def test_the_fair_protocol_on_real_digits(tmp_path):
    options = ["--dataset", "digits", "--num-samples", "300", "--cache-dir", tmp_path / "cache"]
    result = json.loads(evaluate("data:digits/train", *options, to=tmp_path / "a.json"))
    assert result["features"]["classifier/clean"]["held_out_accuracy"] > 0.97
    assert result["metrics"]["classifier/clean/inception_score"]["mean"] > 7
    assert result["complete"] is False
