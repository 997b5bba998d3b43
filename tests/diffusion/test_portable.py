"""Saved pipelines: plain diffusers loads them, in a process that has neither trained nor asked."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

import spikediff
from goldens import GOLDEN
from small_pipelines import MAKERS, make
from spikediff.diffusion.analytic_dpm import AnalyticDPMScheduler
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.saving import PIPELINES, component, own_classes
from spikediff.errors import UserError
from spikediff.systems.fsvae.vae import VAE
from spikediff.training.trained import load_trained

EARLIER = GOLDEN / "saved-0.1"
# What training, measuring and plotting need, and nobody who only samples.
EXTRAS = ("accelerate", "sklearn", "scipy", "matplotlib", "tyro", "datasets", "torch_fidelity")
FRESH_PROCESS = """
import json, os, sys, traceback
extras = {extras!r}

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in extras else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
logging.disable_progress_bar()

def load(folder, **options):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe

def images(pipe):
    return pipe(seeds=[3, 4], num_inference_steps=2, output_type="pt").images

def network(name, folder):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            import spikediff
            pipe = getattr(spikediff, name).from_pretrained(folder)
            os.write(write, type(next(iter(pipe.components.values()))).__name__.encode())
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    os.wait()
    return os.read(read, 100).decode()

folders = json.loads(sys.argv[1])
networks = {{name: network(name, folders[kind]) for name, kind in {first!r}}}
told = {{}}
for name, folder in folders.items():
    half = load(folder, dtype=torch.float16)
    pipe = load(folder)
    told[name] = {{
        "class": type(pipe).__name__,
        "images": images(pipe).tolist(),
        "half": [str(half.dtype), bool(images(half).isfinite().all())],
        "eval": not any(c.training for c in pipe.components.values() if hasattr(c, "training")),
    }}
told["custom_pipeline"] = type(load(folder, custom_pipeline=folder)).__name__
print(json.dumps([told, networks]))
"""
# Of our own classes: the kind of a saved pipeline, and what its network is.
FIRST = {
    "SpikingDiffusionPipeline": ("denoiser", "SpikingUNet"),
    "VAEPipeline": ("fsvae", "FSVAE"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of every pipeline, and the images of seeds 3 and 4."""
    root, folders, images = tmp_path_factory.mktemp("portable"), {}, {}
    for name in MAKERS:
        pipe = make(name)
        folders[name] = root / name.replace(", ", "-")
        pipe.save_pretrained(folders[name])
        images[name] = draw(pipe)
    return folders, images


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(seeds=[3, 4], num_inference_steps=2, output_type="pt").images


@pytest.fixture(scope="module")
def told(saved, tmp_path_factory):
    """What a fresh process, where nothing of training is installed, tells of every pipeline."""
    folders = {name: str(folder) for name, folder in saved[0].items()}
    first = [(name, kind) for name, (kind, _) in FIRST.items()]
    # With bytecode, a file of code that replaces one of the same size within a second is not read.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("own modules"))}
    program = FRESH_PROCESS.format(extras=EXTRAS, first=first)
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(folders)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_plain_diffusers_loads_every_pipeline_where_nothing_of_training_is_installed(saved, told):
    images, pipelines = saved[1], dict(told[0])
    assert pipelines.pop("custom_pipeline") == pipelines[[*images][-1]]["class"]
    assert pipelines.keys() == MAKERS.keys()
    for name, facts in pipelines.items():
        assert facts["class"] == type(make(name)).__name__
        assert torch.equal(torch.tensor(facts["images"]), images[name]), name
        assert facts["half"] == ["torch.float16", True], name
        assert facts["eval"]


def test_our_own_class_is_the_first_that_a_process_asks_for(told):
    """diffusers looks a component's class up among the modules that are loaded."""
    assert told[1] == {name: network for name, (_, network) in FIRST.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_our_own_classes_need_no_trust_and_run_no_file(name, saved, tmp_path):
    folder = shutil.copytree(saved[0][name], tmp_path / "copied")
    codes = list(folder.rglob("*.py"))
    assert folder / "pipeline.py" in codes
    for code in codes:
        code.write_text("raise RuntimeError('run')\n")
    assert torch.equal(draw(load_trained(folder)), saved[1][name])


def test_all_parts_have_the_same_file_of_code(saved):
    # diffusers copies all of them to one file, whose bytecode may be that of another part.
    codes = [path.read_text() for f in saved[0].values() for path in f.rglob("*/spikediff.py")]
    assert len(codes) > len(saved[0])
    assert len(set(codes)) == 1


def test_plain_diffusers_asks_for_trust(saved):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(saved[0]["vae"])


def test_half_precision_in_our_own_classes(saved):
    pipe = SpikingDiffusionPipeline.from_pretrained(saved[0]["denoiser"], dtype=torch.float16)
    assert pipe.unet.dtype == torch.float16
    assert draw(pipe).isfinite().all()


def test_a_folder_of_an_earlier_version_still_loads(saved, tmp_path):
    """It names modules, and has no files of code."""
    folders, images = saved
    for name in ("denoiser", "tokens"):
        folder = folders[name]
        copy = shutil.copytree(folder, tmp_path / folder.name)
        for code in copy.rglob("*.py"):
            code.unlink()
        index = own_classes(json.loads((copy / "model_index.json").read_text()))
        assert isinstance(index["_class_name"], str)
        (copy / "model_index.json").write_text(json.dumps(index))
        assert torch.equal(draw(load_trained(copy)), images[name])


def test_the_front_door_names_every_part():
    for name in ("SpikingUNet", "ConvertedUNet", "QuantisedUNet", "VAE", "AnalyticDPMScheduler"):
        assert component(name) is getattr(spikediff, name)
    assert component("UserError") is component("DDIMScheduler") is component(["x"]) is None
    assert set(PIPELINES) <= set(spikediff.__all__)


def test_a_folder_of_version_0_1_loads_and_its_code_runs_in_plain_diffusers(tmp_path):
    """It was saved when `spikediff.models` had the networks and `spikediff.pipelines` the rest."""
    index = json.loads((EARLIER / "model_index.json").read_text())
    assert index["vae"] == ["spikediff_models_vae", "VAE"]
    wanted = torch.tensor(json.loads((EARLIER / "images.json").read_text()))
    ours = load_trained(EARLIER)
    plain = DiffusionPipeline.from_pretrained(EARLIER, trust_remote_code=True)
    for pipe in (ours, plain):
        pipe.set_progress_bar_config(disable=True)
        assert torch.allclose(pipe(seeds=[3], output_type="pt").images, wanted, atol=1e-6)


def test_diffusers_parts_need_no_file(tmp_path):
    pipe = make("denoiser")
    assert isinstance(pipe.scheduler, DDIMScheduler)
    pipe.save_pretrained(tmp_path)
    assert not list((tmp_path / "scheduler").glob("*.py"))
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert index["unet"] == ["spikediff", "SpikingUNet"]
    pipe.scheduler = AnalyticDPMScheduler()
    pipe.save_pretrained(tmp_path)
    again = SpikingDiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(again.scheduler, AnalyticDPMScheduler)


class Mine(VAEPipeline):
    """A user's own pipeline, which no file of ours could import."""


def test_a_users_own_class_is_saved_as_diffusers_does(tmp_path):
    Mine(VAE(8, 1, channels=(4, 8), latent_channels=6).eval()).save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.py"))
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "Mine"
    assert isinstance(Mine.from_pretrained(tmp_path), Mine)


def test_a_damaged_folder_is_told_in_one_line(tmp_path):
    make("vae").save_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_trained(tmp_path)
