"""The spiking U-Net: published sizes, and every option that a recipe may choose."""

from functools import cache
from itertools import product

import pytest
import torch

from norms import see
from sizes import ONE_LEVEL, U_NET
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.hub.run_data import network_shape
from spikediff.layers.coding import DECODERS
from spikediff.layers.temporal_scaling import TemporalScaling, scaling_factors
from spikediff.neurons import IF, NEURONS
from spikediff.systems.sddpm.blocks import BLOCKS
from spikediff.systems.sddpm.network import SpikingUNet


def count(model, trainable=False):
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def test_published_size():
    with torch.device("meta"):
        model = SpikingUNet()
    assert count(model) == 66_696_413
    assert count(model) - count(model, trainable=True) == 128_000  # the sinusoidal table
    assert sum(isinstance(m, IF) for m in model.modules()) == 51


def test_published_size_with_temporal_scaling():
    with torch.device("meta"):
        model = SpikingUNet(temporal_scaling=True)
    factors = scaling_factors(model)
    assert len(factors) == 67
    assert count(model) == 66_696_413 + 67 * 4
    convolutions = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    assert [n for n in convolutions if n.removesuffix(".conv") not in factors] == [
        "head.refine.conv"
    ]


def test_published_number_of_neurons():
    """3,416,064 neurons per 32x32 image, counted at a quarter of the width: one in four."""
    model = SpikingUNet(base_channels=32, spiking_steps=1).eval()
    sizes = []
    for module in model.modules():
        if isinstance(module, IF):
            module.register_forward_hook(lambda _m, _i, out: sizes.append(out.numel()))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32), 0)
    assert 4 * sum(sizes) == 3_416_064


@pytest.mark.parametrize(
    ("neuron", "block", "readout", "scaling"),
    [
        *product(["if"], BLOCKS, DECODERS, [False, True]),
        *product(sorted(NEURONS.keys() - {"if"}), BLOCKS, ["mean"], [True]),
    ],
)
def test_every_option_trains(neuron, block, readout, scaling):
    sizes = U_NET if neuron == "if" else ONE_LEVEL
    options = {"neuron": neuron, "block": block, "readout": readout, "temporal_scaling": scaling}
    model = SpikingUNet(**sizes, **options, dropout=0.1)
    sample = torch.randn(2, 1, 8, 8)
    out = model(sample, torch.tensor([3, 900])).sample
    assert out.shape == sample.shape
    out.square().mean().backward()
    unmoved = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    # With tail gain 1e-5 the estimate hardly depends on the rest, but every part is reached.
    assert all("conv.bias" in name or "linear" in name for name in unmoved), unmoved


@pytest.mark.parametrize(
    ("size", "channels", "mult", "layers", "steps"),
    [(8, 1, (1, 2, 2), 1, 1), (28, 1, (1, 2, 4), 2, 2), (16, 3, (1,), 1, 4), (32, 3, (1, 1), 3, 3)],
)
def test_sizes(size, channels, mult, layers, steps):
    model = SpikingUNet(size, channels, None, 4, mult, layers, steps).eval()
    with torch.no_grad():
        assert model(torch.randn(2, channels, size, size), 5).sample.shape == (
            2,
            channels,
            size,
            size,
        )


def test_out_channels_and_images_that_are_not_square():
    model = SpikingUNet(**U_NET, out_channels=2).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 8, 12), 5).sample.shape == (1, 2, 8, 12)


def test_a_pair_of_sizes(tmp_path):
    """The images of a pipeline are then not square, also after saving; and the ordinary twin's."""
    model = SpikingUNet(**U_NET | {"sample_size": (8, 12)}, position_embedding=True).eval()
    assert model.stem.state_dict()  # it has a current for each of 8x12 places
    pipe = SpikingDiffusionPipeline(model, make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    call = {"seeds": [0, 1], "num_inference_steps": 2, "output_type": "pt"}
    images = pipe(**call).images
    assert images.shape == (2, 1, 8, 12)
    pipe.save_pretrained(tmp_path)
    again = SpikingDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(**call).images, images)
    twin = SpikingDiffusionPipeline(model.ann_counterpart().eval(), make_scheduler("ddim"))
    twin.set_progress_bar_config(disable=True)
    assert twin(**call).images.shape == (2, 1, 8, 12)
    with pytest.raises(UserError, match=r"position_embedding knows sample_size=\(8, 12\) alone"):
        model(torch.randn(1, 1, 12, 8), 5)
    with pytest.raises(UserError, match="8x12 pixels; those of data sets are square"):
        network_shape(pipe)


@pytest.mark.parametrize("size", [(8, 9), (8,), (8, 8, 8), (8, 2.0), "8", None])
def test_no_such_pair(size):
    with pytest.raises(UserError, match="sample_size"):
        SpikingUNet(**U_NET | {"sample_size": size})


@cache
def trained_a_little():
    """A net, not to be changed, with running statistics and a head loud enough to be seen."""
    torch.manual_seed(0)
    model = SpikingUNet(**U_NET)
    torch.nn.init.normal_(model.head.conv.weight, std=0.1)
    return see(model, torch.randn(16, 1, 8, 8), torch.randint(1000, (16,)))


def test_kinds_of_timestep_agree():
    model, sample = trained_a_little(), torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        want = model(sample, torch.tensor([250, 250, 250])).sample
        for timestep in (250, torch.tensor(250), torch.tensor([250])):
            torch.testing.assert_close(model(sample, timestep).sample, want)
        torch.testing.assert_close(model(sample, 250.0).sample, want)
        assert not torch.allclose(model(sample, 900).sample, want)
        assert model(sample, 250, return_dict=False)[0].shape == sample.shape


def test_images_of_a_batch_do_not_see_each_other():
    model, sample = trained_a_little(), torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        together = model(sample, 100).sample
        for i in range(5):
            assert torch.equal(model(sample[i : i + 1], 100).sample[0], together[i])


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("training", [False, True])
def test_temporal_scaling_by_1_is_the_plain_network_bit_for_bit(block, training):
    torch.manual_seed(0)
    plain = SpikingUNet(**U_NET, block=block)
    torch.nn.init.normal_(plain.head.conv.weight, std=0.1)
    scaled = SpikingUNet(**U_NET, block=block, temporal_scaling=True)
    missing, unexpected = scaled.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("scaling.p") for name in missing)
    sample, timestep, gradients = torch.randn(4, 1, 8, 8), torch.randint(1000, (4,)), []
    for model in (plain.train(training), scaled.train(training)):
        out = model(sample, timestep).sample
        out.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        gradients[-1]["estimate"] = out
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_temporal_scaling_changes_what_it_says(tmp_path):
    model = SpikingUNet(**U_NET, temporal_scaling=True)
    model.load_state_dict(trained_a_little().state_dict(), strict=False)
    sample = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        before = model.eval()(sample, 5).sample
        model.head.scaling.p[3] = 2.0  # the last step alone, which has the largest weight
        after = model(sample, 5).sample
        assert not torch.allclose(before, after)
        model.save_pretrained(tmp_path)
        assert torch.equal(SpikingUNet.from_pretrained(tmp_path)(sample, 5).sample, after)


def test_temporal_scaling_keeps_its_number_of_steps():
    model = SpikingUNet(**U_NET, temporal_scaling=True)
    model.stem.spiking_steps = 8
    with pytest.raises(UserError, match="T = 4 spiking steps, got a window of 8"):
        model(torch.randn(1, 1, 8, 8), 5)


def test_temporal_scaling_is_billed_where_it_happens():
    """One multiply-accumulate per element of every scaled current, in a layer of its own."""
    model = SpikingUNet(**U_NET, temporal_scaling=True).eval()
    elements = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.uniform_(module.bias)  # currents of 0 would be T copies, billed once
        if isinstance(module, TemporalScaling):
            torch.nn.init.uniform_(module.p, 0.7, 1.3)
            module.register_forward_hook(
                lambda _m, _i, out, name=name: elements.update({name: out.numel()})
            )
    with EnergyMeter(model) as meter, torch.no_grad():
        model(torch.randn(2, 1, 8, 8), 5)
    billed = {
        cell.layer: cell.macs
        for cell in meter.report("strict", "45nm").layers
        if cell.operation == "scaling by a parameter"
    }
    assert len(elements) == 26  # 8 blocks, 5 shortcuts, stem, head, down and up
    assert billed == elements


def test_configuration_round_trip(tmp_path):
    model = SpikingUNet(
        **U_NET, neuron="lif", neuron_options={"tau": 3.0, "surrogate": {"name": "rectangular"}}
    )
    model.save_pretrained(tmp_path)
    again = SpikingUNet.from_pretrained(tmp_path)
    assert again.down_blocks[0].neuron1.decay == pytest.approx(2 / 3)
    longer = SpikingUNet.from_pretrained(tmp_path, spiking_steps=8)
    assert longer.stem.spiking_steps == 8
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sample_size": 30, "channel_mult": (1, 2, 2)}, "divisible by 4"),
        (
            {"sample_size": 28, "patch_size": 2, "channel_mult": (1, 2, 2, 2)},
            "sample_size=28 must be divisible by 16, .* has 4 levels and patch_size=2",
        ),
        ({"base_channels": 7}, "even"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"spiking_steps": 0}, "spiking_steps=0 must be at least 1"),
        ({"spiking_steps": 2.5}, r"spiking_steps=2\.5 must be a whole number"),
        ({"in_channels": -1}, "in_channels=-1 must be at least 1"),
        ({"out_channels": -1}, "out_channels=-1 must be at least 1"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"neuron": "iff"}, "did you mean 'if'"),
        ({"block": "sew"}, "choose from pre_spike, plain"),
        ({"readout": "means"}, "did you mean 'mean'"),
        ({"neuron_options": {"tau": 2.0}}, "neuron_options"),
    ],
)
def test_impossible_sizes_are_told(options, word):
    with pytest.raises(UserError, match=word):
        SpikingUNet(**options)


def test_images_that_do_not_fit_are_told():
    model = SpikingUNet(**U_NET)
    with pytest.raises(UserError, match=r"\[B, 1, H, W\]"):
        model(torch.randn(1, 3, 8, 8), 0)
    with pytest.raises(UserError, match="not divisible by 2"):
        model(torch.randn(1, 1, 9, 8), 0)


@pytest.mark.parametrize("block", ["plain", "pre_spike"])
def test_a_spiking_head_reads_spikes_and_nothing_else(block):
    options = {"sample_size": 8, "in_channels": 1, "base_channels": 8, "channel_mult": (1,)}
    model = SpikingUNet(**options, block=block, spiking_head=True, readout="mean").eval()
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.fill_(0.7)
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda m, inputs: seen.append((m, inputs[0])))
    with torch.no_grad():
        estimate = model(torch.randn(2, 1, 8, 8), 10).sample
    if block == "plain":  # then every convolution but the first sees spikes alone
        assert all(set(x.unique().tolist()) <= {0.0, 1.0} for _, x in seen[1:])
    last, spikes = seen[-1]
    assert last is model.head.conv
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    rate = spikes.view(4, 2, *spikes.shape[1:]).mean(0)  # [T*B, ...] -> [B, ...]
    torch.testing.assert_close(estimate, last(rate))  # linear, so the mean may come first


def with_places(block="pre_spike", filled=True):
    model = SpikingUNet(**U_NET, block=block, position_embedding=True).eval()
    if filled:
        torch.nn.init.normal_(model.stem.position_embedding)
    return model


@pytest.mark.parametrize("block", ["plain", "pre_spike"])
def test_a_position_embedding_changes_nothing_at_first(block):
    torch.manual_seed(0)
    plain = SpikingUNet(**U_NET, block=block).eval()
    torch.manual_seed(0)
    placed = with_places(block, filled=False)
    assert placed.stem.position_embedding.shape == (8, 8, 8)
    sample = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(placed(sample, 7).sample, plain(sample, 7).sample)


def test_a_position_embedding_is_a_current_of_every_place():
    model = with_places()
    grey = torch.full((1, 1, 8, 8), 0.3)  # looks the same everywhere but at the edges
    places = model.stem.position_embedding
    with torch.no_grad():
        current = model.stem(grey)
        model.stem.position_embedding = None
        without = model.stem(grey)
    torch.testing.assert_close(current - without, places.expand_as(current))


@pytest.mark.parametrize("block", ["plain", "pre_spike"])
def test_a_position_embedding_learns(block):
    model = with_places(block, filled=False).train()
    torch.nn.init.normal_(model.head.conv.weight)
    model(torch.randn(2, 1, 8, 8), 7).sample.square().sum().backward()
    assert model.stem.position_embedding.grad.abs().sum() > 0


def test_patches_and_signals_have_places_too():
    patched = SpikingUNet(**U_NET, patch_size=2, position_embedding=True)
    assert patched.stem.position_embedding.shape == (8, 4, 4)
    signal = SpikingUNet(**U_NET, dimensions=1, position_embedding=True)
    assert signal.stem.position_embedding.shape == (8, 8)
    assert signal(torch.randn(2, 1, 8), 7).sample.shape == (2, 1, 8)


def test_places_are_of_one_size():
    with pytest.raises(UserError, match="knows sample_size=8 alone"):
        with_places()(torch.randn(1, 1, 16, 16), 7)
