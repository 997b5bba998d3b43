"""`spikediff push --dry-run`: the folder that would be uploaded."""

import json
import shutil

import pytest
import yaml
from PIL import Image

from small_pipelines import make
from spikediff.cli import main
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.pipeline import weights_sha256
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE
from spikediff.training.trained import load_trained


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    make("denoiser").save_pretrained(folder)
    return folder


@pytest.fixture
def source(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.mark.usefixtures("magnified")
def test_a_dry_run_leaves_a_folder_that_works(source, tmp_path, capsys):
    out, told = tmp_path / "out", tmp_path / "told.json"
    (source / "origin.json").write_text(
        json.dumps({"system": "sddpm", "checkpoint": {"file": "w.pt", "sha256": "ab12"}})
    )
    arguments = ["--dry-run", "--output", str(out), "--num-inference-steps", "1", "--measure"]
    assert main(["push", str(source), "me/x", *arguments, "--json", str(told)]) == 0
    said = capsys.readouterr().out
    assert "quality: not measured" in said
    assert "licence of the weights: not stated" in said
    assert "nothing uploaded" in said
    facts = json.loads(told.read_text())
    assert facts["address"] is None
    assert facts["not_measured"] == ["quality", "licence"]
    assert all((out / name).is_file() for name in facts["files"])
    assert {"README.md", "samples.png", "energy.json", "energy-2.json", "origin.json"} < set(
        facts["files"]
    )
    strict, paper = (
        json.loads((out / name).read_text()) for name in ("energy.json", "energy-2.json")
    )
    assert (strict["accounting"], paper["accounting"]) == ("strict", "paper")
    assert strict["weights_sha256"] == weights_sha256(load_trained(source))
    assert 0.0 < strict["firing_rate"] < 1.0
    card = (out / "README.md").read_text()
    assert "imported with `spikediff import --system sddpm` from `w.pt` (SHA-256 ab12)" in card
    assert "Images of the seeds 0 to 63, not selected" in card
    assert Image.open(out / "samples.png").size[0] > 600
    assert type(load_trained(out)).__name__ == "SpikingDiffusionPipeline"


def test_an_autoencoder_that_only_reconstructs_has_no_picture(tmp_path, capsys):
    vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4)
    VAEPipeline(vqvae.eval()).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    arguments = ["push", str(tmp_path / "model"), "me/x", "--dry-run"]
    assert main([*arguments, "--output", str(out), "--license", "mit"]) == 0
    assert not (out / "samples.png").exists()
    card = (out / "README.md").read_text()
    assert "pipe.reconstruct(images)" in card
    assert "pipeline_tag" not in card
    capsys.readouterr()
    assert main([*arguments, "--output", str(tmp_path / "other"), "--measure"]) == 2
    assert "generates no images" in capsys.readouterr().err
    again = ["push", str(out), "me/x", "--dry-run", "--output", str(tmp_path / "again")]
    assert main(again) == 0
    assert "- Weights: mit." in (tmp_path / "again" / "README.md").read_text()


def test_what_cannot_work_is_told_in_a_line(source, tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    cases = [
        ([str(source), "x", "--dry-run", *out], "give USER/NAME"),
        ([str(source), "me/x", "--dry-run"], "with --output"),
        ([str(source), "me/x", "--dry-run", "--output", str(source)], "choose another --output"),
        ([str(tmp_path / "no"), "me/x", "--dry-run", *out], "no such folder"),
        ([str(source), "me/x", "--dry-run", *out, "--evaluation", "no.json"], "no such file"),
        ([str(source), "me/x", "--dry-run", *out, "--measure", "--energy", "a"], "choose one"),
    ]
    for arguments, said in cases:
        assert main(["push", *arguments]) == 2, said
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_links_that_leave_the_run_are_not_uploaded(source, tmp_path, capsys):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"weights_sha256": "", "measured": {}, "settings": {}}))
    (source / "calibration.json").symlink_to(secret)
    out = tmp_path / "out"
    push = ["push", str(source), "me/x", "--dry-run", "--num-inference-steps", "1"]
    assert main([*push, "--output", str(out)]) == 2
    assert "calibration.json: is a link to a file outside" in capsys.readouterr().err
    (source / "calibration.json").unlink()
    (source / "inside.json").write_text(secret.read_text())
    (source / "calibration.json").symlink_to("inside.json")
    again = tmp_path / "again"
    assert main([*push, "--output", str(again)]) == 0
    assert json.loads((again / "calibration.json").read_text()) == json.loads(secret.read_text())
    (source / "calibration.json").unlink()
    (source / "calibration.json").write_text('{"token": "hf_x"}')
    more = tmp_path / "more"
    assert main([*push, "--output", str(more)]) == 2
    assert "is not what spikediff writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("environment.json", [1]),
        ("environment.json", {"packages": {"torch": 3}}),
        ("origin.json", {"system": "sddpm", "checkpoint": 3}),
        ("origin.json", []),
    ],
)
def test_damaged_files_of_a_run_are_named(source, tmp_path, capsys, name, content):
    (source / name).write_text(json.dumps(content))
    (source / "recipe.yaml").write_text("name: x")
    out = str(tmp_path / "out")
    assert main(["push", str(source), "me/x", "--dry-run", "--output", out]) == 2
    assert f"{name}: is damaged" in capsys.readouterr().err


def test_a_space_that_serves_the_model(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    requirement = "spikediff[demo] @ git+https://example.org/spikediff"
    push = ["push", str(source), "me/x", "--dry-run", "--num-inference-steps", "1"]
    assert main([*push, "--output", str(out), "--space", requirement]) == 0
    page = out / "space"
    front = yaml.safe_load((page / "README.md").read_text().split("---\n")[1])
    assert front == {"title": "x", "sdk": "gradio", "app_file": "app.py", "models": ["me/x"]}
    assert (page / "requirements.txt").read_text() == f"{requirement}\n"
    served = (page / "app.py").read_text()
    told, own = tmp_path / "told.json", out / "notes.txt"
    own.write_text("mine")
    assert main([*push, "--output", str(out), "--overwrite", "--json", str(told)]) == 0
    found = {path for path in out.rglob("*") if path.is_file()}
    listed = {out / name for name in json.loads(told.read_text())["files"]}
    assert found == {*listed, own} != listed, "of the files, none of the user or of the Space"
    called = []
    monkeypatch.setattr("spikediff.cli.main", lambda arguments: called.extend(arguments))
    with pytest.raises(SystemExit):
        exec(compile(served, "app.py", "exec"), {})
    assert called == ["web", "me/x", "--host", "0.0.0.0"]
