"""`spikediff deploy`: an integer network in whole numbers, and the commands that run it."""

import filecmp

import pytest
from PIL import Image

from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.hub.load import load_pipeline
from spikediff.systems.integer import CompiledIntegerUNet, DeployedIntegerUNet, IntegerSpikingUNet


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("integer")
    unet = IntegerSpikingUNet(8, 1, block_out_channels=(4, 6), num_classes=10).eval()
    SpikingDiffusionPipeline(unet, make_scheduler("ddim")).save_pretrained(folder / "float")
    arguments = ["--output", str(folder / "whole"), "--execution", "delta"]
    assert main(["deploy", str(folder / "float"), *arguments]) == 0
    return folder


def test_the_form_is_a_pipeline_that_says_how_it_runs(trained):
    pipe = SpikingDiffusionPipeline.from_pretrained(trained / "whole")
    assert isinstance(pipe.unet, DeployedIntegerUNet)
    assert pipe.unet.config.execution == "delta"


def test_what_generates_runs_compiled_where_it_gives_the_same_bits(trained):
    for execution, kind in (("counts", CompiledIntegerUNet), ("spikes", DeployedIntegerUNet)):
        pipe = load_pipeline(trained / "whole", execution=execution, to_generate=True)
        assert type(pipe.unet) is kind
    assert type(load_pipeline(trained / "whole").unet) is DeployedIntegerUNet


def test_images_do_not_depend_on_the_execution(trained, tmp_path):
    for execution in ("counts", "delta", "spikes"):
        arguments = ["--num-images", "6", "--num-inference-steps", "3", "--no-gif"]
        output = ["--output", str(tmp_path / execution), "--execution", execution]
        assert main(["sample", str(trained / "whole"), *arguments, *output]) == 0
    files = [f"seed-{k:06d}.png" for k in range(6)]
    for execution in ("delta", "spikes"):
        folders = tmp_path / "counts", tmp_path / execution
        assert filecmp.cmpfiles(*folders, files, shallow=False) == (files, [], [])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sample", "{float}", "--execution", "delta"], "only the deployment form"),
        (["deploy", "{whole}", "--output", "{new}"], "only an IntegerSpikingUNet"),
        (["deploy", "digits", "--output", "{new}"], "error: digits: has a DeployedIntegerUNet"),
        (["deploy", "{float}", "--output", "{whole}"], "whole"),
        (["deploy", "{float}", "--output", "{new}", "--weight-bits", "5"], "weight-bits"),
        (
            ["evaluate", "{pictures}", "--dataset", "digits", "--execution", "counts"],
            "the source is existing images",
        ),
    ],
)
def test_mistakes_end_with_2(arguments, told, trained, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "pictures" / "0.png")
    names = {
        "float": trained / "float",
        "whole": trained / "whole",
        "new": tmp_path / "new",
        "pictures": tmp_path / "pictures",
    }
    try:
        code = main([argument.format(**names) for argument in arguments])
    except SystemExit as ended:  # of the parser of arguments
        code = ended.code
    assert code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
