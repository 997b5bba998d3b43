"""Output folders: one rule for all commands. Nothing is mixed, nothing else is removed."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from safetensors import SafetensorError

from sizes import ONE_LEVEL
from small_pipelines import make
from spikediff.cli import COMMANDS as COMMANDS_OF_THE_LINE
from spikediff.cli import main, options_class
from spikediff.cli.arguments import options_of
from spikediff.cli.outputs import check_file, new_folder
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.systems.sddpm.network import SpikingUNet

STEPS = ["--num-inference-steps", "1"]
PICTURE = ["--dataset", "digits", "--data-index", "0", "--num-images", "1", *STEPS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "denoiser"
    pipe = SpikingDiffusionPipeline(SpikingUNet(**ONE_LEVEL).eval(), make_scheduler("ddim"))
    pipe.save_pretrained(folder)
    return folder


COMMANDS = [
    ["sample", "--num-images", "2", "--no-gif", *STEPS],
    ["vary", "--strength", "1", *PICTURE],
    ["inpaint", "--mask-box", "0", "0", "4", "4", *PICTURE],
    ["invert", "--dataset", "digits", "--data-index", "0", *STEPS],
    ["interpolate", "--num-images", "2", *STEPS],
    ["inspect", "--num-images", "1", "--layers", "stem*", *STEPS],
]


@pytest.mark.usefixtures("figures_are_empty")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_folder_with_other_files_is_refused_or_overwritten(command, model, tmp_path, capsys):
    name, *options = command
    output = tmp_path / "out"
    call = [name, str(model), "--output", str(output), *options]
    assert main(call) == 0
    written = {path for path in output.rglob("*") if path.is_file()}
    assert main(call) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    own = output / "cat.png"
    own.write_text("mine")
    (output / "empty").mkdir()
    stale = output / ("layers/999-gone.png" if name == "inspect" else "seed-999999.png")
    stale.write_bytes(b"")
    assert main([*call, "--overwrite"]) == 0
    assert {path for path in output.rglob("*") if path.is_file()} == {*written, own}
    assert (output / "empty").is_dir()


def test_every_command_writes_to_the_folder_of_its_name():
    defaults = {}
    for command in set(COMMANDS_OF_THE_LINE) - {"train", "demo"}:  # run folders
        found = {o.path: o for o in options_of(options_class(command)) if o.path[-1] == "output"}
        for path in found:
            kind = options_class(command)
            report = {field.name: field.default for field in fields(kind)}[path[0]]
            defaults[command] = getattr(report, "output", report)
    given = {command for command, path in defaults.items() if isinstance(path, Path)}
    assert {"sample", "vary", "inpaint", "inspect", "reconstruct"} <= given
    assert {command: defaults[command] for command in given} == {
        command: Path("outputs") / command for command in given
    }


def test_fewer_images_leave_no_stale_ones(model, tmp_path):
    call = ["sample", str(model), "--output", str(tmp_path / "out"), "--no-gif", *STEPS]
    assert main([*call, "--num-images", "5"]) == 0
    assert main([*call, "--num-images", "2", "--seed", "3", "--overwrite"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["grid.png", "seed-000003.png", "seed-000004.png"]


def test_a_mistake_removes_nothing(model, tmp_path):
    call = ["sample", str(model), "--output", str(tmp_path / "out"), "--no-gif", *STEPS]
    assert main([*call, "--num-images", "2"]) == 0
    assert main([*call, "--num-images", "2", "--scheduler", "dimm", "--overwrite"]) == 2
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_model_is_never_removed(model, tmp_path):
    files = set(model.rglob("*"))
    call = ["sample", str(model), "--output", str(model), "--no-gif", "--num-images", "1", *STEPS]
    assert main(call) == 2
    assert main([*call, "--overwrite"]) == 0
    assert files <= set(model.rglob("*"))
    run = shutil.copytree(model, tmp_path / "run" / "pipeline").parent
    for folder, source in ((model.parent, model), (run, run), (run / "pipeline", run)):
        with pytest.raises(UserError, match="contains the model being read"):
            new_folder(folder, "pipeline", overwrite=True, source=source)
    assert (run / "pipeline" / "model_index.json").is_file()


def test_links_are_removed_and_what_they_point_to_stays(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    folder.mkdir()
    (elsewhere / "seed-000000.png").write_bytes(b"kept")
    (folder / "seed-000001.png").symlink_to(elsewhere / "seed-000000.png")
    (folder / "linked").symlink_to(elsewhere)
    new_folder(folder, "pictures", overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["linked"]
    assert (elsewhere / "seed-000000.png").read_bytes() == b"kept"


@pytest.mark.parametrize("name", ["file/x", "file", "x" * 300])
def test_where_nothing_can_be_written(name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        new_folder(tmp_path / name, "pictures")
    if name != "file":
        with pytest.raises(UserError):
            check_file(tmp_path / name, "json")


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "unipc", "deis", "ddpm"])
def test_an_eta_that_is_ignored_and_steps_that_there_are_not(scheduler, model, tmp_path, capsys):
    call = ["sample", str(model), "--scheduler", scheduler, "--num-images", "1", "--no-gif"]
    output = ["--output", str(tmp_path / "out")]
    assert main([*call, *output, "--eta", "0.5", *STEPS]) == 2
    assert "eta = 0.5" in capsys.readouterr().err
    assert main([*call, *output, "--num-inference-steps", "1001"]) == 2
    assert "--num-inference-steps 1001 must be at most" in capsys.readouterr().err


def test_one_value_a_channel_is_told(tmp_path, capsys):
    model = [
        "--model.base-channels",
        "4",
        "--model.channel-mult",
        "1",
        "--model.spiking-steps",
        "1",
    ]
    data = ["--data.image-size", "1", "--data.batch-size", "1", "--output", str(tmp_path / "run")]
    assert main(["train", "sddpm/digits", *model, *data]) == 2
    assert "batch norm sees one value per channel" in capsys.readouterr().err


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    def full(*_args, **_options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr("diffusers.models.modeling_utils.safetensors.torch.save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        make("denoiser").save_pretrained(tmp_path / "out")
