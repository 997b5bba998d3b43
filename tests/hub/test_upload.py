"""Up to the Hub and down again, with the real client: `spikediff push`, and diffusers' own way."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline

from small_pipelines import MAKERS, make
from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.hub.load import load_pipeline
from spikediff.hub.repository import check_repository_name
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.training.trained import load_trained


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(seeds=[0, 1], num_inference_steps=2, output_type="pt").images


def test_push_and_load(hub, run_folder, tmp_path, capsys):
    told = tmp_path / "told.json"
    arguments = ["push", str(run_folder), "me/tiny", "--private", "--license", "cc0-1.0"]
    arguments += ["--output", str(tmp_path), "--overwrite"]
    (tmp_path / "secret.txt").write_text("mine")
    assert main([*arguments, "--json", str(told)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/me/tiny"
    assert hub.private == {"me/tiny": True}
    assert sorted(hub.files["me/tiny"]) == sorted(json.loads(told.read_text())["files"])
    assert set(hub.files["me/tiny"]) == {
        "README.md",
        "model_index.json",
        "pipeline.py",
        "recipe.yaml",
        "samples.png",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/spikediff.py",
    }
    front = yaml.safe_load(hub.files["me/tiny"]["README.md"].decode().split("---\n")[1])
    assert front["license"] == "cc0-1.0"
    want = draw(load_trained(run_folder))
    hub.requests.clear()
    ours = type(load_trained(run_folder)).from_pretrained("me/tiny")
    assert not any(request.endswith(".py") for request in hub.requests), "no code is downloaded"
    assert torch.equal(draw(ours), want)
    plain = DiffusionPipeline.from_pretrained("me/tiny", trust_remote_code=True)
    assert torch.equal(draw(plain), want)


def test_a_space_is_a_repository_of_its_own(hub, run_folder, capsys):
    assert main(["push", str(run_folder), "me/tiny", "--space", "spikediff[demo]"]) == 0
    assert set(hub.files["spaces/me/tiny"]) == {"README.md", "app.py", "requirements.txt"}
    assert hub.files["spaces/me/tiny"]["requirements.txt"] == b"spikediff[demo]\n"
    assert "model_index.json" in hub.files["me/tiny"]
    assert f"{hub.url}/spaces/me/tiny" in capsys.readouterr().out


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in MAKERS if name not in ("tokens", "vae")
]


@pytest.mark.parametrize("name", ["tokens", "vae", *SLOW])
def test_every_pipeline_by_diffusers_own_method(hub, name):
    pipe = make(name)
    repository = f"me/{name.replace(', ', '-')}"
    pipe.push_to_hub(repository)
    assert "pipeline.py" in hub.files[repository]
    assert torch.equal(draw(type(pipe).from_pretrained(repository)), draw(pipe))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(repository)
    plain = DiffusionPipeline.from_pretrained(repository, trust_remote_code=True)
    assert torch.equal(draw(plain), draw(pipe))


def test_a_network_alone(hub):
    pipe = make("currents")
    unet = pipe.unet
    unet.push_to_hub("me/unet")
    assert {"config.json", "diffusion_pytorch_model.safetensors"} < hub.files["me/unet"].keys()
    again = SynapticCurrentUNet.from_pretrained("me/unet")
    for (key, a), b in zip(unet.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    pipe.push_to_hub("me/whole")
    part = SynapticCurrentUNet.from_pretrained("me/whole", subfolder="unet")
    assert part.config.spiking_steps == unet.config.spiking_steps


def test_what_was_downloaded_loads_without_the_hub(hub):
    pipe = make("vae")
    pipe.push_to_hub("me/vae")
    want = draw(type(pipe).from_pretrained("me/vae"))
    hub.close()
    again = type(pipe).from_pretrained("me/vae", local_files_only=True)
    assert torch.equal(draw(again), want)


def test_a_repository_is_a_source_of_every_command(hub):
    pipe = make("vae")
    pipe.push_to_hub("me/vae")
    assert torch.equal(draw(load_pipeline(Path("me/vae"))), draw(pipe))
    with pytest.raises(UserError, match="me/none: no such folder here, and no such repository on"):
        load_pipeline(Path("me/none"))


def test_a_refusal_is_told_in_a_line(hub, run_folder, capsys):
    hub.refuses = True
    assert main(["push", str(run_folder), "me/tiny"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("spikediff: error: me/tiny: the upload failed (")
    assert "hf auth login" in error
    assert "hf_test" not in error


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "me/with space", "me/-x", "me/"])
def test_names_that_no_repository_has(name):
    with pytest.raises(UserError, match="is not a repository name"):
        check_repository_name(name)
