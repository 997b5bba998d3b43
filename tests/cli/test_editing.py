"""The commands of editing as a user types them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sizes import ONE_LEVEL
from spikediff.cli import main
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Folders of untrained models of 8 x 8 images."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("editing")
    unet = SpikingUNet(**ONE_LEVEL).eval()
    torch.nn.init.normal_(unet.head.conv.weight, std=0.1)
    vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4).eval()
    decoder = SpikingImageDecoder(16, (8, 8), spiking_steps=4).eval()
    scheduler = AbsorbingStateScheduler(num_train_timesteps=16, mask_token=16)
    for module in (*vqvae.modules(), *decoder.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 3.0)  # so that neurons fire
    made = {
        "images": SpikingDiffusionPipeline(unet, make_scheduler("ddim")),
        "tokens": VQSpikingDiffusionPipeline(vqvae, decoder, scheduler),
        "vae": VAEPipeline(VAE(8, 1, channels=(4, 8), latent_channels=6).eval()),
    }
    for name, pipe in made.items():
        pipe.save_pretrained(folder / name)
    return folder


def call(command, source, tmp_path, *flags, steps=3):
    options = ["--output", tmp_path / "out", "--json", tmp_path / "told.json", *flags]
    if steps is not None:
        options += ["--num-inference-steps", steps]
    return main([command, str(source), *map(str, options)])


DIGIT = ("--dataset", "digits", "--data-index", 5)


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("kind", ["images", "tokens"])
def test_inpaint_keeps_the_known_pixels(pipelines, tmp_path, kind):
    """Of a PNG that goes in and the PNGs that come out."""
    grey = np.random.default_rng(0).integers(256, size=(8, 8), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "in.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:7, 3:] = 200
    Image.fromarray(mask).save(tmp_path / "mask.png")
    flags = ["--image", tmp_path / "in.png", "--mask", tmp_path / "mask.png", "--num-images", 3]
    assert call("inpaint", pipelines / kind, tmp_path, *flags, "--batch-size", 2) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["masked_pixels"] == 25
    assert told["seeds"] == [0, 2]
    made = [pixels(tmp_path / "out" / f"seed-{k:06d}.png") for k in range(3)]
    for image in made:
        assert np.array_equal(image[mask == 0], grey[mask == 0])
    assert not np.array_equal(made[0], made[1])
    assert np.array_equal(pixels(tmp_path / "out" / "image.png"), grey)


def test_inpaint_an_image_of_the_data_set(pipelines, tmp_path):
    box = ("--mask-box", 0, 4, 8, 8, "--num-images", 1, "--num-resamples", 2)
    assert call("inpaint", pipelines / "images", tmp_path, *DIGIT, *box) == 0
    given, made = (pixels(tmp_path / "out" / f"{n}.png") for n in ("image", "seed-000000"))
    assert np.array_equal(given[:4], made[:4])
    assert given.max() > 200


def test_an_image_of_another_size_is_resized_as_in_training_and_told(pipelines, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for n in range(3):
        Image.new("RGB", (20, 16), (n, 200, 0)).save(tmp_path / "mine" / f"{n}.png")
    flags = ("--dataset", tmp_path / "mine", "--split", "train", "--data-index", 0)
    assert call("vary", pipelines / "images", tmp_path, *flags, "--num-images", 1) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path / 'mine'}: 20x16, mode RGB; resized to the model's 8x8, mode L" in told
    assert call("vary", pipelines / "images", tmp_path, *DIGIT, "--overwrite") == 0
    assert "resized" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["images", "tokens"])
def test_vary(pipelines, tmp_path, kind):
    flags = ("--num-images", 3, "--strength", 0.7, "--seed", 4)
    assert call("vary", pipelines / kind, tmp_path, *DIGIT, *flags) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"image.png", "grid.png", *(f"seed-{k:06d}.png" for k in (4, 5, 6))}
    assert json.loads((tmp_path / "told.json").read_text())["strength"] == 0.7


def test_interpolate_starts_and_ends_with_the_seeds_own_images(pipelines, tmp_path):
    source = pipelines / "images"
    assert call("interpolate", source, tmp_path, "--seeds", 3, 7, "--num-images", 4) == 0
    flags = ["--seed", "3", "--num-images", "5", "--num-inference-steps", "3", "--no-gif"]
    assert main(["sample", str(source), "--output", str(tmp_path / "own"), *flags]) == 0
    for name, own in (("image-000", "seed-000003"), ("image-003", "seed-000007")):
        got = (tmp_path / "out" / f"{name}.png").read_bytes()
        assert got == (tmp_path / "own" / f"{own}.png").read_bytes()


def test_invert(pipelines, tmp_path, capsys):
    assert call("invert", pipelines / "images", tmp_path, *DIGIT) == 0
    said = capsys.readouterr()
    assert "inverting: " in said.err
    assert "reconstructing: " in said.err
    told = json.loads((tmp_path / "told.json").read_text())
    a, b = (pixels(tmp_path / "out" / f"{n}.png") / 255 for n in ("image", "reconstruction"))
    assert told["mse"] == pytest.approx(((a - b) ** 2).mean())
    assert told["scheduler"] == "SynapticCurrentDDIMScheduler"
    assert f" {told['mse']:.4g}\n" in said.out
    noise = load_file(tmp_path / "out" / "noise.safetensors")["latents"]
    assert noise.shape == (1, 1, 8, 8)
    assert float(noise.std()) == pytest.approx(told["noise_std"])


BOX = (*DIGIT, "--mask-box", 0, 0, 4, 4)


@pytest.mark.parametrize(
    ("command", "kind", "flags", "word"),
    [
        ("inpaint", "images", DIGIT, "--mask FILE or --mask-box"),
        ("inpaint", "images", ("--mask-box", 0, 0, 4, 4), "--image FILE or --data-index"),
        (
            "inpaint",
            "images",
            (*DIGIT, "--mask-box", 0, 0, 9, 4),
            "not a box inside the picture of 8x8",
        ),
        ("inpaint", "images", (*BOX, "--token-margin", 1), "token_margin"),
        ("inpaint", "tokens", (*BOX, "--num-resamples", 2), "num_resamples"),
        ("inpaint", "vae", BOX, "no diffusion, which this needs"),
        ("inpaint", "images", (*BOX, "--num-images", 0), "at least 1"),
        ("vary", "images", (*DIGIT, "--strength", 0), "strength"),
        ("vary", "images", ("--data-index", 5000, "--dataset", "digits"), "images 0 to 354"),
        ("vary", "images", ("--image", "no.png"), "no such file"),
        ("vary", "images", ("--image", "a.png", "--dataset", "x"), "--dataset: goes with --data-i"),
        ("invert", "images", ("--image", "a.png", "--split", "x"), "--split: goes with --data-ind"),
        ("vary", "images", ("--image", __file__), "cannot be decoded as an image"),
        ("interpolate", "tokens", (), "does not start from noise"),
        ("interpolate", "images", ("--scheduler", "ddpm"), "draws fresh noise"),
        ("interpolate", "images", ("--seeds", 1), "two or more"),
        ("invert", "tokens", DIGIT, "use a run of the integer system, SDDPM"),
        ("invert", "images", (*DIGIT, "--scheduler", "ddim"), "omit it"),
        ("invert", "images", (*DIGIT, "--batch-size", 2), "one picture is inverted; omit it"),
    ],
)
def test_wrong_use_is_one_line(pipelines, tmp_path, capsys, command, kind, flags, word):
    assert call(command, pipelines / kind, tmp_path, *flags) == 2
    said = capsys.readouterr().err
    assert word in said
    assert said.count("spikediff: error:") == 1
    assert not (tmp_path / "out").exists()


def test_a_mask_that_marks_nothing_is_told(pipelines, tmp_path, capsys):
    Image.new("L", (8, 8), 127).save(tmp_path / "mask.png")
    flags = (*DIGIT, "--mask", tmp_path / "mask.png")
    assert call("inpaint", pipelines / "images", tmp_path, *flags) == 2
    assert "no white pixels" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["images", "tokens", "vae"])
def test_weights_that_are_no_numbers_make_no_picture(pipelines, tmp_path, kind, capsys):
    source, part = tmp_path / "spoilt", {"images": "unet", "tokens": "decoder", "vae": "vae"}[kind]
    shutil.copytree(pipelines / kind, source)
    weights = source / part / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state = {key: x * torch.nan if x.is_floating_point() else x for key, x in state.items()}
    save_file(state, weights)
    commands = [("sample",)]
    if kind != "vae":
        commands += [("inpaint", *DIGIT, "--mask-box", 2, 2, 6, 6), ("vary", *DIGIT)]
    for command, *flags in commands:
        assert call(command, source, tmp_path, *flags) == 2
        assert "NaN" in capsys.readouterr().err.splitlines()[-1]
        assert not list(tmp_path.glob("out/*"))
