"""The examples run, and what they save loads."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline

import run_nir
import spikediff as sd
import train_unconditional
from sizes import ONE_LEVEL, U_NET


@pytest.mark.parametrize("network", [pytest.param("sddpm", marks=pytest.mark.slow), "integer"])
def test_train_unconditional(network, tmp_path):
    options = ["--network", network, "--output-dir", str(tmp_path), "--max-train-steps", "2"]
    options += ["--train-batch-size", "8", "--eval-batch-size", "2", "--lr-warmup-steps", "0"]
    train_unconditional.main(
        train_unconditional.parse_args([*options, "--ddpm-num-inference-steps", "2"])
    )
    assert (tmp_path / "grid.png").exists()
    kind = sd.SpikingUNet if network == "sddpm" else sd.IntegerSpikingUNet
    unet = kind.from_pretrained(tmp_path, subfolder="unet")
    norms = [m for m in unet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(m.running_mean.abs().sum() > 0 for m in norms), "the average has buffers (trap 2)"
    assert not unet.training
    assert len(sd.load(tmp_path)(seeds=[0, 1], num_inference_steps=2).images) == 2


def test_ddpm_pipeline_samples_in_the_mode_of_the_network():
    """Trap 1: in training mode an image depends on its batch; in evaluation mode it does not."""
    torch.manual_seed(0)
    unet = sd.SpikingUNet(**U_NET)
    images = []
    for training in (True, False):
        pipe = DDPMPipeline(unet.train(training), train_unconditional.DDPMScheduler())
        pipe.set_progress_bar_config(disable=True)
        for batch in (1, 4):
            noise = torch.Generator().manual_seed(0)
            made = pipe(batch, noise, num_inference_steps=1, output_type="np").images
            images.append(made[0])
        assert unet.training == training
    assert not np.array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[2], images[3])


def test_run_nir_makes_the_images_of_the_pipeline(tmp_path, capsys):
    pytest.importorskip("nir")
    torch.manual_seed(0)
    unet = sd.SpikingUNet(**ONE_LEVEL, spiking_head=True, readout="mean", neuron="lif")
    torch.nn.init.normal_(unet.head.conv.weight)
    pipe = sd.SpikingDiffusionPipeline(unet.eval(), sd.make_scheduler("dpmsolver++"))
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    told = tmp_path / "told.json"
    options = {"num_inference_steps": 2, "json": told}
    exported = sd.export(tmp_path / "model", tmp_path / "graphs", **options)
    assert json.loads(told.read_text()) == exported
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    want = pipe.to(torch.float64)(
        latents=noise.double(), num_inference_steps=2, output_type="pt"
    ).images
    made = run_nir.denoise(tmp_path / "graphs", noise.double())
    torch.testing.assert_close((made / 2 + 0.5).clamp(0, 1), want.double(), atol=1e-6, rtol=0)
    picture = tmp_path / "row.png"
    run_nir.main([str(tmp_path / "graphs"), "--output", str(picture), "--num-images", "2"])
    assert picture.exists()
    index = json.loads((tmp_path / "graphs/index.json").read_text())
    assert index["first_convolution_by"]
    del index["patch_size"]  # as of a decoder of tokens
    (tmp_path / "graphs/index.json").write_text(json.dumps(index))
    with pytest.raises(SystemExit, match="no patches, tokens or convolution"):
        run_nir.denoise(tmp_path / "graphs", noise)
