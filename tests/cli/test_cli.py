"""The command line as a user types it: what it prints, writes and returns."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from spikediff.cli import COMMANDS, demo, main
from spikediff.cli.demo import _judge, _recognised
from spikediff.cli.info import _kernel
from spikediff.cli.train import _told
from spikediff.data import load_images, to_model_range
from spikediff.native import library, native_name
from spikediff.pretrained import find_recipe
from spikediff.systems.integer.compiled import ConvolutionRuns
from spikediff.systems.integer.plan import has_kernels
from spikediff.training import recipe_from, save_recipe
from spikediff.training.recipe import load_recipe, load_run_recipe
from spikediff.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run of three steps, trained through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    recipe = recipe_from(
        {
            "name": "tiny",
            "model": {"base_channels": 8, "channel_mult": [1], "layers_per_block": 1},
            "data": {"batch_size": 4},
            "sampling": {"num_inference_steps": 2, "num_images": 2, "every": 2},
            "training": {"steps": 3, "checkpoint_every": 2},
        },
        "test",
    )
    save_recipe(recipe, folder / "tiny.yaml")
    arguments = ["train", str(folder / "tiny.yaml"), "--output", str(folder / "run")]
    assert main([*arguments, "--optimizer.lr", "1e-4", "--threads", "1"]) == 0
    return folder / "run"


def test_help_is_quick_and_loads_no_torch():
    program = (
        "import sys; from spikediff.cli import main; main(['-h']); print('torch' in sys.modules)"
    )
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    assert done.stdout.rstrip().endswith("False")
    for command in COMMANDS:
        assert command in done.stdout
    assert used < 1.0  # seconds of a processor, however busy the machine is


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    assert "usage: spikediff" in capsys.readouterr().out


def test_the_table_of_commands_fits_a_terminal(capsys):
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("step", "said"), [(6, "steps 7 to 8 of 64, on cpu"), (8, "all 8 steps are made, on cpu")]
)
def test_a_resumed_run_says_what_is_left(step, said):
    recipe = recipe_from({"training": {"steps": 8}, "data": {"batch_size": 64}}, "test")
    trainer = SimpleNamespace(
        network_in_training=torch.nn.Flatten(),
        dataset=load_images("digits"),
        recipe=recipe,
        step=step,
        accelerator=SimpleNamespace(device="cpu"),
    )
    assert _told(trainer).endswith(said)


def test_training_leaves_what_it_should(run_folder):
    left = {path.name for path in run_folder.iterdir()}
    assert left >= {"recipe.yaml", "environment.json", "loss.csv", "loss.png", "samples"}
    assert left >= {"checkpoints", "pipeline"}
    assert "lr: 0.0001" in (run_folder / "recipe.yaml").read_text()
    grids = sorted(path.name for path in (run_folder / "samples").iterdir())
    assert grids == ["step-00000002.png", "step-00000003.png"]


def test_sample(run_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--num-images", 5, "--batch-size", 2, "--num-inference-steps", 3, "--seed", 7]
    told = ["--output", out, *arguments, "--json", tmp_path / "s.json"]
    assert main(["sample", str(run_folder), *map(str, told)]) == 0
    told = capsys.readouterr()
    for first, last in ((1, 2), (3, 4), (5, 5)):
        assert f"images {first} to {last} of 5:" in told.err  # the bars
    assert "step/s" in told.err.replace("s/step", "step/s")
    said, following = told.out.splitlines()
    assert said == f"5 images, grid.png, denoising.gif in {out.resolve()}"
    assert following == f"next: spikediff inspect {run_folder}"
    names = sorted(path.name for path in out.iterdir())
    assert names == ["denoising.gif", "grid.png", *[f"seed-{k:06d}.png" for k in range(7, 12)]]
    with Image.open(out / "denoising.gif") as gif:
        assert gif.n_frames == 3
    assert Image.open(out / "seed-000007.png").size == (8, 8)
    assert json.loads((tmp_path / "s.json").read_text())["seeds"] == [7, 11]

    one = tmp_path / "one"
    arguments = ["--num-images", 1, "--num-inference-steps", 3, "--seed", 9, "--no-gif"]
    assert main(["sample", str(run_folder), "--output", str(one), *map(str, arguments)]) == 0
    same = (one / "seed-000009.png").read_bytes() == (out / "seed-000009.png").read_bytes()
    assert same, "seed 9 alone is seed 9 in a batch"
    assert not (one / "denoising.gif").exists()


def test_sample_event_driven(run_folder, tmp_path):
    """In a network this small nothing flips; eight bits hide the rounding of what is left."""
    options = ["--num-images", "3", "--num-inference-steps", "3", "--no-gif"]
    pixels, told = [], []
    ways = [[], ["--event-driven"], ["--event-driven", "--event-driven-weights", "int16"]]
    if native_name() == "none":
        del ways[2]  # rounded weights need the compiled kernels
    for flag in ways:
        out, figures = tmp_path / f"out{len(flag)}", tmp_path / "s.json"
        command = ["sample", str(run_folder), "--output", str(out), "--json", str(figures)]
        assert main([*command, *options, *flag]) == 0
        files = sorted(out.glob("seed-*.png"))
        pixels.append(np.stack([np.array(Image.open(file)) for file in files]).astype(int))
        figures = json.loads(figures.read_text())
        told.append((figures["event_driven"], figures["event_driven_weights"]))
    assert told == [(False, None), (True, "float32"), (True, "int16")][: len(ways)]
    assert pixels[0].shape == (3, 8, 8)
    assert abs(pixels[0] - pixels[1]).max() <= 1
    assert all(abs(pixels[0] - rounded).mean() <= 1 for rounded in pixels[2:])


def test_the_help_of_event_driven_says_why_it_is_off(capsys):
    for command in ("sample", "evaluate", "reconstruct"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = " ".join(re.sub(r"[│\s]+", " ", capsys.readouterr().out).split())
        assert "--event-driven" in said
        assert "rounding differs" in said
        assert "--event-driven-weights {float32,int16,int8}" in said
    with pytest.raises(SystemExit):
        main(["energy", "--help"])
    assert "--event-driven" not in capsys.readouterr().out


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpmsolver++", "unipc", "deis"])
def test_schedulers_by_name(scheduler, run_folder, tmp_path):
    arguments = [
        "--num-images",
        "2",
        "--num-inference-steps",
        "3",
        "--scheduler",
        scheduler,
        "--no-gif",
    ]
    assert main(["sample", str(run_folder), "--output", str(tmp_path), *arguments]) == 0
    assert (tmp_path / "grid.png").is_file()


def test_a_run_that_is_not_finished_can_be_sampled(run_folder, tmp_path):
    import shutil

    shutil.copytree(run_folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "pipeline")
    options = ["--num-images", "2", "--num-inference-steps", "3", "--no-gif"]
    assert main(["sample", str(tmp_path / "run"), "--output", str(tmp_path / "a"), *options]) == 0
    assert main(["sample", str(run_folder), "--output", str(tmp_path / "b"), *options]) == 0
    grids = [(tmp_path / x / "grid.png").read_bytes() for x in "ab"]
    assert grids[0] == grids[1]


def test_info(run_folder, tmp_path, capsys):
    assert main(["info", "--json", str(tmp_path / "i.json")]) == 0
    said = capsys.readouterr().out
    assert "sddpm/digits" in said
    assert max(map(len, said.splitlines())) <= 80
    told = json.loads((tmp_path / "i.json").read_text())
    assert "digits" in told["data sets"]
    name = native_name()
    used = "none: run python -m spikediff.native.build" if name == "none" else name
    assert told["machine"]["neuron kernels"] == used
    assert main(["info", str(run_folder)]) == 0
    assert "neuron_layers" in capsys.readouterr().out


@pytest.mark.skipif(not has_kernels(), reason="no C kernels for this processor")
def test_info_says_how_the_deployment_form_runs(tmp_path, capsys):
    assert main(["info", "mnist", "--json", str(tmp_path / "i.json")]) == 0
    told = json.loads((tmp_path / "i.json").read_text())
    assert told["deployment form"]["instruction set"] == native_name()
    kernels = told["kernels of the convolutions, one image of 10 calls"]
    assert "down_blocks.0.synapse1" in kernels
    assert "head" in kernels
    told = "by matrix tiles" if native_name() == "amx" else "of the quads not 0"
    assert all(told in kernel for kernel in kernels.values())
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("dense", "quads", "words"),
    [
        (0.0, 0.5, "by quads, zeros skipped; 50% of the quads not 0"),
        (1.0, 0.9, "dense; 90% of the quads not 0"),
        (0.25, 0.5, "dense in 25% of the calls, else by quads; 50% of the quads not 0"),
        (1.0, None, "dense, by matrix tiles"),
    ],
)
def test_which_kernel_of_a_convolution_ran_is_told(dense, quads, words):
    assert _kernel(ConvolutionRuns("head", (8, 8), 4, dense, quads), "not 0") == words


def test_info_says_how_to_get_the_kernels(monkeypatch, capsys):
    monkeypatch.setattr(library, "_load", library._load.__wrapped__)  # and not what it found before
    monkeypatch.setenv("SPIKEDIFF_NATIVE", "none")
    assert main(["info"]) == 0
    assert "none: run python -m spikediff.native.build" in capsys.readouterr().out


@pytest.fixture(scope="module")
def judge():
    return _judge(load_images("digits"))


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_demo(small, judge, tmp_path, capsys, monkeypatch):
    if small:
        monkeypatch.setattr(demo, "_judge", lambda _: judge)
        recipe = load_recipe(find_recipe("integer/digits"))
        grid = replace(recipe.sampling, num_images=4, num_inference_steps=2)
        model = replace(recipe.model, block_out_channels=(4,), layers_per_block=1)
        save_recipe(replace(recipe, sampling=grid, model=model), tmp_path / "small.yaml")
        sizes = {"_METERED": 1, "_CALLS": 8, "_STEPS": 3, "_ROWS": 1, "_SEEDS": 10}
        for name, value in {"_RECIPE": str(tmp_path / "small.yaml"), **sizes}.items():
            monkeypatch.setattr(demo, name, value)
    out, figures = tmp_path / "demo", tmp_path / "d.json"
    assert main(["demo", "--steps", "3", "--output", str(out), "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    for name in ("mnist.png", "mnist.gif", "digits.png", "digits_and_nearest.png", "loss.png"):
        assert (out / name).is_file()
        assert name in said
    told = json.loads(figures.read_text())
    assert sum(told["digits_per_class"]) == demo._SEEDS
    shipped = told["shipped"]
    assert shipped["spiking_uj"] < 0.025 * shipped["ordinary_uj"]
    assert shipped["spiking_quantised_uj"] < 0.1 * shipped["ordinary_quantised_uj"]
    assert f"{shipped['spiking_uj']} uJ; the ordinary network {shipped['ordinary_uj']} uJ" in said
    assert Image.open(out / "mnist.gif").n_frames == demo._STEPS
    assert told["recognised_real_held_out"] > 0.85
    assert len(told["firing_rate_by_layer"]) == told_layers(said)
    RunFolder(out).claim(load_run_recipe(out), resume=False, overwrite=True)  # and once more


def test_the_demo_recognises_real_digits_and_no_grey_images(judge):
    test = load_images("digits", "test")
    rate, per_class = _recognised(judge, to_model_range(test.stack()))
    assert rate > 0.85
    assert min(per_class) > 0
    assert sum(per_class) == len(test)
    assert min(_recognised(judge, torch.zeros(10, 1, 8, 8))[1]) == 0


def told_layers(said):
    return (
        sum(
            line.startswith("  ") and "neuron" in line and "%" in line for line in said.splitlines()
        )
        - 1
    )


BAD = [
    (["trian"], "did you mean 'train'"),
    ([], "usage"),
    (["train"], "give a recipe first"),
    (["train", "absent.yaml"], "no such recipe; `spikediff info` lists"),
    (["sample", "RUN", "--event-driven", "--device", "cuda"], "only on the CPU"),
    (["evaluate", "RUN", "--event-driven", "--device", "cuda"], "only on the CPU"),
    (["energy", "RUN", "--event-driven"], "nrecognized"),
    (["sample", "RUN", "--event-driven-weights", "int8"], "needs --event-driven"),
    (["sample", "RUN", "--event-driven-weights", "int4"], "int4"),
    (["train", "sddpm/digits", "--optimiser.lr", "1"], "did you mean --optimizer.lr"),
    (["train", "sddpm/digits", "--optimizer.lr", "fast"], "--optimizer.lr fast: give a number"),
    (["sample"], "give SOURCE: A shipped model (digits, digits-float"),
    (["import"], "give CHECKPOINT, --system TEXT, --output FOLDER; --help"),
    (["completion", "tcsh"], "shell tcsh: choose from bash, zsh, fish"),
    (["sample", "RUN", "--seed", "it's; x"], "--seed it's; x: give a whole number"),
    (["sample", "RUN", "--num-images", "1.5"], "--num-images 1.5: give a whole number"),
    (["sample", "RUN", "--num-images", "9" * 300 + "x"], "99x: give a whole number"),
    (["sample", "RUN", "--eta", ""], "--eta '': give a number"),
    (["inpaint", "RUN", "--mask-box", "1", "2", "3", "x"], "1 2 3 x: give 4 whole numbers"),
    (["interpolate", "RUN", "--seeds", "a", "b"], "--seeds a b: give whole numbers"),
    (["sample", "RUN", "--execution", "event"], "--execution event: did you mean 'events'?"),
    (["train", "sddpm/digits", "--resume", "--overwrite"], "cannot be combined"),
    (["train", "sddpm/digits", "--data.dataset", "mnits", "--output", "OUT"], "did you mean"),
    (["train", "sddpm/mnist-paper", "--output", "OUT"], "data"),
    (
        [
            "train",
            "sddpm/digits",
            "--model.channel-mult",
            "1",
            "2",
            "2",
            "2",
            "2",
            "--output",
            "OUT",
        ],
        "divisible",
    ),
    (["train", "sddpm/digits", "--resume", "--output", "OUT"], "no run to resume (there"),
    (["train", "sddpm/digits", "--model.neuron", "iff", "--output", "OUT"], "did you mean 'if'"),
    (["sample", "absent"], "no such folder"),
    (["info", __file__], "is a file; give the folder of a pipeline or of a run"),
    (["sample", "."], "neither a pipeline"),
    (["sample", "RUN", "--num-images", "0"], "at least 1"),
    (["sample", "RUN", "--scheduler", "dimm"], "did you mean 'ddim'"),
    (["sample", "RUN", "--scheduler", "ddim", "--device", "tpu"], "device"),
    (["train", "RUN/recipe.yaml", "--output", "RUN"], "--resume or --overwrite"),
    (["demo", "--steps", "0"], "at least 1"),
    (["demo", "--output", "RUN"], "contains a run that is not a demo"),
    (["train", "sddpm/digits", "--training.steps", "-3", "--output", "OUT"], "positive"),
    (["train", "sddpm/digits", "--training.log-every", "0", "--output", "OUT"], "log_every"),
    (["train", "sddpm/digits", "--optimizer.lr", "-1", "--output", "OUT"], "optimizer.lr"),
    (["train", "sddpm/digits", "--sampling.scheduler", "dimm", "--output", "OUT"], "ddim"),
    (["train", "sddpm/digits", "--model.neuron-options", "tau", "2", "--output", "OUT"], "tau"),
    (["train", "sddpm/digits", "--data.channels", "2", "--output", "OUT"], "grey"),
]


@pytest.mark.parametrize(
    ("arguments", "word"), BAD, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_bad_input_gets_one_line_and_code_2(arguments, word, run_folder, tmp_path, capsys):
    places = {"OUT": str(tmp_path / "out"), "RUN": str(run_folder)}
    arguments = [places.get(a, a.replace("RUN/", f"{run_folder}/")) for a in arguments]
    assert main(arguments) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("spikediff: error")]
    if arguments:
        assert len(lines) == 1
        assert word in lines[0]
        assert len(said.err.splitlines()) == 1, said.err
    assert not (tmp_path / "out").exists()


def test_a_section_of_a_recipe_that_has_no_settings_is_told(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("model: foo\n")
    assert main(["train", str(tmp_path / "recipe.yaml"), "--model.network", "unet"]) == 2
    assert "model must hold keys and values, not 'foo'" in capsys.readouterr().err


def test_damaged_pipeline_is_told(run_folder, tmp_path, capsys):
    import shutil

    shutil.copytree(run_folder / "pipeline", tmp_path / "p")
    weights = tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(["sample", str(tmp_path / "p")]) == 2
    weights.unlink()
    (weights.parent / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert main(["sample", str(tmp_path / "p")]) == 2
    said = capsys.readouterr().err
    assert "safetensors only" in said
    assert "Traceback" not in said


def test_a_folder_that_cannot_be_written_is_told(run_folder, tmp_path, monkeypatch, capsys):
    from PIL import Image as Pillow

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device", str(tmp_path / "grid.png"))

    monkeypatch.setattr(Pillow.Image, "save", full)
    options = ["--num-images", "1", "--num-inference-steps", "1", "--no-gif"]
    assert main(["sample", str(run_folder), "--output", str(tmp_path), *options]) == 2
    assert "grid.png: No space left on device" in capsys.readouterr().err


WRONG_PATHS = {
    **dict.fromkeys(("sample", "info", "energy", "guide", "reconstruct"), "no such folder"),
    "train": "no such recipe",
}


def test_a_wrong_path_is_told_before_torch_is_imported():
    program = (
        "import os, sys; from spikediff.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    print(command, main([command, 'nothere']), 'torch' in sys.modules)\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program, *WRONG_PATHS],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    *ended, policy = done.stdout.splitlines()
    assert ended == [f"{command} 2 False" for command in WRONG_PATHS]
    assert policy == "PASSIVE"
    for line, words in zip(done.stderr.splitlines(), WRONG_PATHS.values(), strict=True):
        assert f"nothere: {words}" in line
