"""No pipeline makes an image of NaN or infinity, wherever they come from."""

import numpy as np
import pytest
import torch

from small_pipelines import MAKERS, made, make
from spikediff.data import to_uint8
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.editing.pipelines import SpikingInpaintPipeline, SpikingInversionPipeline
from spikediff.errors import UserError
from spikediff.events import compile_for_inference
from spikediff.native import native
from spikediff.systems.converted.network import ConvertedUNet, QuantisedUNet
from spikediff.systems.integer import IntegerSpikingUNet

BAD = [torch.nan, torch.inf, -torch.inf]


def integer():
    unet = IntegerSpikingUNet(8, 1, block_out_channels=(8, 16), layers_per_block=1, levels=3)
    return SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))


def pipeline(name):
    return integer() if name == "integer" else make(name)


def generated(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(num_inference_steps=1, seeds=[0], output_type="np").images


@pytest.mark.parametrize("name", [*MAKERS, "integer"])
@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_no_tensor_of_a_network_may_be_spoilt(name, every):
    """Parameters and buffers in turn: what is generated or reconstructed is refused."""
    pipe = pipeline(name)
    generated(pipe)
    silent = []
    for part, network in pipe.components.items():
        if not isinstance(network, torch.nn.Module):
            continue
        floats = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
        for key, tensor in list(floats.items())[::every]:
            kept = tensor.clone()
            tensor.fill_(torch.nan)
            try:
                generated(pipe)
                if hasattr(pipe, "reconstruct"):
                    size = network.config.get("sample_size", 8)
                    pipe.reconstruct(torch.zeros(1, 1, size, size))
                silent.append(f"{part}.{key}")
            except UserError:
                pass
            tensor.copy_(kept)
    assert silent == []
    generated(pipe)


@pytest.mark.skipif(native() is None, reason="the C kernels are not built")
@pytest.mark.parametrize("weights", ["float32", "int16", "int8"])
@pytest.mark.parametrize("every", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_no_tensor_of_an_event_driven_network_may_be_spoilt(weights, every):
    """Spikes as bits and weights as whole numbers cannot say NaN."""
    unet, silent = make("denoiser").unet, []
    x, floats = torch.randn(1, 1, 8, 8), dict(unet.named_parameters())
    for key, tensor in list(floats.items())[::every]:
        kept = tensor.detach().clone()
        tensor.data.fill_(torch.nan)
        try:
            if compile_for_inference(unet, weights)(x, 5).sample.isfinite().all():
                silent.append(key)
        except UserError:
            pass
        tensor.data.copy_(kept)
    assert silent == []


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpmsolver++", "unipc", "deis"])
def test_one_spoilt_pixel_of_the_noise(scheduler, bad):
    """Schedulers that clip would make a grey level of infinity."""
    pipe = SpikingDiffusionPipeline(made("denoiser").unet, make_scheduler(scheduler))
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 1, 8, 8)
    latents[1, 0, 3, 3] = bad
    with pytest.raises(UserError, match=r"output at timestep 999: .* NaN or infinite"):
        pipe(latents=latents, num_inference_steps=2)


@pytest.mark.parametrize("settings", [{"solver_type": "bh1"}, {"lower_order_final": False}])
def test_a_scheduler_whose_settings_give_nan_is_named(settings):
    pipe = SpikingDiffusionPipeline(made("denoiser").unet, make_scheduler("unipc", settings))
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(UserError, match="UniPCMultistepScheduler: its step at timestep"):
        pipe(seeds=[0], num_inference_steps=3)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_a_callback_cannot_smuggle_it_in(output_type):
    def spoil(_pipe, i, _t, tensors):
        return {"sample": tensors["sample"] * (torch.inf if i == 1 else 1.0)}

    with pytest.raises(UserError, match="NaN or infinite"):
        make("denoiser")(
            seeds=[0], num_inference_steps=2, output_type=output_type, callback_on_step_end=spoil
        )


def test_editing():
    parts = make("denoiser").components
    parts["unet"].head.conv.weight.data.fill_(torch.nan)
    picture, mask = np.zeros((8, 8, 1), dtype=np.uint8), torch.eye(8)
    inpaint, invert = SpikingInpaintPipeline(**parts), SpikingInversionPipeline(**parts)
    with pytest.raises(UserError, match="at timestep 999"):
        inpaint(picture, mask, num_inference_steps=1, seeds=[0])
    with pytest.raises(UserError, match="at timestep"):
        invert.invert(picture, num_inference_steps=2)


@pytest.mark.parametrize("bad", BAD)
def test_pixels(bad):
    with pytest.raises(UserError, match="1 of 3 values are NaN or infinite"):
        to_uint8(torch.tensor([0.0, bad, 1.0]))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["denoiser", "tokens"])
def test_it_is_not_saved(name, bad, tmp_path):
    pipe = make(name)
    part = next(iter(pipe.components))
    network = pipe.components[part]
    buffer = next(key for key in network.state_dict() if key.endswith("running_var"))
    network.state_dict()[buffer][0] = bad
    with pytest.raises(UserError, match=f"{part} cannot be saved: 1 of .*{buffer}"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_converted_networks():
    from diffusers import UNet2DModel

    from spikediff.systems.converted.convert import convert, quantise

    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    ).eval()
    quantised = quantise(unet, bits=2)
    converted = convert(quantised)
    assert isinstance(quantised, QuantisedUNet)
    assert isinstance(converted, ConvertedUNet)
    x = torch.randn(2, 1, 8, 8)
    x[1, 0, 0, 0] = torch.inf
    for network in (quantised, converted):
        out = network(x, 10).sample
        assert out[1].isnan().any()
        assert out[0].isfinite().all()
