"""The deployment form: the same bits however it runs, and the float network's answer, rounded."""

import hashlib

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from integer_networks import SMALL, deployed, inputs, network, networks

from spikediff.errors import UserError
from spikediff.neurons import IntegerNeuron
from spikediff.systems.integer import EXECUTIONS, IntegerSpikingUNet, to_integer
from spikediff.systems.integer.folding import largest_currents
from spikediff.systems.integer.weights import FRACTION_BITS, rounded, to_whole
from spikediff.systems.integer.whole_layers import FixedPointNeuron, IntegerSynapse


@given(unet=networks, bits=st.sampled_from([8, 6, 4]), calls=st.integers(2, 3))
@settings(max_examples=6)
def test_every_execution_gives_the_same_bits(unet, bits, calls):
    form = to_integer(unet, bits)
    x, t, labels = inputs(unet, 2)
    delta, state = form.with_execution("delta"), None
    for call in range(calls):  # a generation: images and timesteps move a little
        x, t = x + 0.1 * torch.randn_like(x), (t - call).clamp(min=0)
        by_counts = form(x, t, labels).sample
        for name in ("spikes", "events") if call == 0 else ():  # they keep nothing
            assert torch.equal(form.with_execution(name)(x, t, labels).sample, by_counts)
        out = delta(x, t, labels, state=state)
        assert torch.equal(out.sample, by_counts)
        state = out.state
    assume(by_counts.std() > 0)  # a network of one level may be silent


@given(unet=networks, execution=st.sampled_from(list(EXECUTIONS)))
@settings(max_examples=8)
def test_an_image_does_not_depend_on_its_batch(unet, execution):
    form = to_integer(unet).with_execution(execution)
    x, t, labels = inputs(unet, 9)
    whole = form(x, t, labels).sample
    for images in (1, 5):
        few = slice(4, 4 + images)
        assert torch.equal(form(x[few], t[few], labels[few]).sample, whole[few])


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_threads_change_no_bit(execution):
    form = deployed(block_out_channels=(32, 48)).with_execution(execution)
    given_to = inputs(form, 16)
    one = form(*given_to).sample
    try:
        torch.set_num_threads(2)
        assert torch.equal(form(*given_to).sample, one)
    finally:
        torch.set_num_threads(1)


def test_a_saved_form_gives_the_same_bits_in_another_process(tmp_path, fresh_process):
    form = deployed(bits=4)
    form.with_execution("events").save_pretrained(tmp_path)
    program = (
        "import hashlib, torch; from spikediff.systems.integer import DeployedIntegerUNet as D;"
        f"torch.set_num_threads(2); form = D.from_pretrained({str(tmp_path)!r});"
        "x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8);"
        "print(form.config.execution, hashlib.sha256(form(x, 7).sample.numpy()).hexdigest())"
    )
    told = fresh_process.run(program)
    here = form(torch.linspace(-1, 1, 64).view(1, 1, 8, 8), 7).sample.numpy()
    assert told.stdout.split() == ["events", hashlib.sha256(here).hexdigest()], told.stderr


def test_two_weights_of_four_bits_share_a_byte():
    """The first level, the shortcuts and the last synapse keep a byte for each weight."""
    unet = network()
    first_level = ("down_blocks.0.", "up_blocks.3.", "up_blocks.4.")
    assert (len(unet.down_blocks), len(unet.up_blocks)) == (3, 5)
    halved = deployed(bits=4)
    for name, eight in deployed().named_modules():
        if isinstance(eight, IntegerSynapse):
            four = halved.get_submodule(name)
            kept = name == "head" or name.endswith("shortcut")
            kept |= name.startswith(first_level)
            weights = eight.weight.numel()
            assert four.weight.nbytes == (weights if kept else -(-weights // 2))


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_the_form_answers_as_the_rounded_network_does(bits):
    """Fine-tuning with `weight_bits` sees the form's weights; the stem is what is left."""
    unet = network()
    fine_tuned = IntegerSpikingUNet(**SMALL, weight_bits=bits).eval()
    fine_tuned.load_state_dict(unet.state_dict())
    given_to = inputs(unet, 16)
    with torch.no_grad():
        target = fine_tuned(*given_to).sample
    error = (to_integer(fine_tuned, bits)(*given_to).sample - target).square().mean()
    assert error < 0.02 * target.square().mean()


@given(
    theta=st.floats(0.05, 2.0),
    bias=st.floats(-1.0, 1.0),
    levels=st.integers(1, 20),
    current=st.lists(st.integers(-(2**18), 2**22), min_size=1, max_size=50),
)
def test_whole_thresholds_count_as_the_neuron_does(theta, bias, levels, current):
    neuron = IntegerNeuron(1, levels).double()
    neuron.log_theta.data.fill_(theta).log_()
    neuron.bias.data.fill_(bias)
    whole = FixedPointNeuron(1, levels)
    with torch.no_grad():
        whole.copy_from(neuron)
    v = torch.tensor(current, dtype=torch.int32).view(1, 1, 1, -1)
    exact = v.double() * 2.0**-FRACTION_BITS
    level = exact / neuron.theta + neuron.bias
    untied = ((level - level.floor()) - 0.5).abs() > 1e-9  # halves go up here, to even there
    assert torch.equal(whole(v)[untied], neuron(exact).to(torch.uint8)[untied])


@given(seed=st.integers(0, 10_000), bits=st.sampled_from([8, 6, 4]), size=st.floats(-6, 1))
def test_rounded_weights_are_whole_and_near(seed, bits, size):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, 3, 3, generator=g) * 10**size
    whole, exponents = to_whole(weight, bits)
    largest = 2 ** (bits - 1) - 1
    unit = 2.0**-exponents
    assert torch.equal(whole, whole.round())
    assert whole.abs().max() <= largest
    assert torch.equal(rounded(weight, bits), weight + (whole * unit.view(-1, 1, 1, 1) - weight))
    error = (whole * unit.view(-1, 1, 1, 1) - weight).flatten(1)
    unclipped = 2.0 ** (weight.flatten(1).abs().amax(1) / largest).log2().ceil().clamp(min=-16)
    nearest = (weight.flatten(1) / unclipped[:, None]).round() * unclipped[:, None]
    assert (error.square().sum(1) <= (nearest - weight.flatten(1)).square().sum(1) * 1.0001).all()


def test_thresholds_are_made_on_the_device_of_the_neuron():
    whole = FixedPointNeuron(2, 4).to("meta")
    whole.copy_from(IntegerNeuron(2, 4).to("meta"))
    assert whole.thresholds.device.type == "meta"


def test_rounding_lets_the_gradient_pass():
    weight = torch.randn(2, 3, 3, 3, requires_grad=True)
    rounded(weight, 4).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_a_view_shares_the_weights_and_not_the_name():
    form = deployed()
    view = form.with_execution("delta")
    assert view.config.execution == "delta"
    assert form.config.execution == "counts"
    pairs = zip(form.parameters(), view.parameters(), strict=True)
    assert all(a is b for a, b in pairs)


def _overflowing():
    unet = network()
    unet.head.weight.data *= 1e6
    return unet


def _of_many_pixels():
    return IntegerSpikingUNet(16, 3, patch_size=4, block_out_channels=(4,))


def _with_group_norm():
    unet = network()
    unet.middle_block.synapse1.norm = torch.nn.GroupNorm(2, 10)
    return unet


def _with_attention():
    unet = network()
    unet.middle_block = torch.nn.MultiheadAttention(10, 2)
    return unet


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: to_integer(network(), weight_bits=5), "weight_bits=5: choose from 8, 6 and 4"),
        (lambda: network(levels=0), "levels=0 must be at least 1"),
        (lambda: network(weight_bits=3), "weight_bits=3"),
        (lambda: to_integer(network(levels=200)), "levels=200"),
        (lambda: to_integer(network(activation="silu")), "'silu' emits no counts"),
        (lambda: to_integer(None), "a NoneType has no integer form"),
        (lambda: to_integer(_overflowing()), "head might reach a current of"),
        (lambda: to_integer(_of_many_pixels()), "the stem's sums .* a smaller patch_size"),
        (lambda: to_integer(_with_group_norm()), "middle_block.synapse1.norm is a GroupNorm"),
        (lambda: to_integer(_with_attention()), "middle_block is a MultiheadAttention"),
        (lambda: to_integer(network()).train(), "cannot be trained"),
        (lambda: deployed().with_execution("spike"), "did you mean 'spikes'"),
        (lambda: deployed()(torch.zeros(1, 1, 8, 8), 0.5), "timestep 0.5"),
        (lambda: deployed()(torch.zeros(1, 1, 8, 8), 1000), "timestep 1000"),
        (lambda: deployed()(torch.full((1, 1, 8, 8), torch.nan), 0), "not finite"),
        (
            lambda: deployed()(torch.zeros(1, 1, 8, 8), 0, torch.tensor([4])),
            "class label 4",
        ),
        (
            lambda: deployed(num_classes=0)(torch.zeros(1, 1, 8, 8), 0, torch.tensor([0])),
            "without classes",
        ),
        (lambda: deployed()(torch.zeros(1, 2, 8, 8), 0), "expects images"),
    ],
)
def test_mistakes_are_told(wrong, told):
    with pytest.raises(UserError, match=told) as error:
        wrong()
    assert "\n" not in str(error.value)


def test_a_state_goes_with_its_images_and_its_execution():
    form = deployed()
    x, t, labels = inputs(form, 2)
    state = form.with_execution("delta")(x, t, labels).state
    with pytest.raises(UserError, match="only 'delta' goes on"):
        form(x, t, labels, state=state)
    with pytest.raises(UserError, match="of 2 images, given with 1"):
        form.with_execution("delta")(x[:1], t[:1], labels[:1], state=state)
    with pytest.raises(UserError, match="a KeptSums of another network"):
        deployed(seed=1).with_execution("delta")(x, t, labels, state=state)


def test_the_largest_current_bounds_every_image():
    form = to_integer(network())
    seen = {}
    for name, part in form.named_modules():
        if isinstance(part, FixedPointNeuron):
            part.register_forward_pre_hook(
                lambda _part, given, name=name: seen.update({name: int(given[0].abs().max())})
            )
    form(100 * inputs(form, 8)[0].sign(), 0)
    bounds = largest_currents(deployed())
    assert seen.keys() <= bounds.keys()
    assert all(current <= bounds[name] for name, current in seen.items())


def test_the_ordinary_counterpart_has_no_neurons():
    counterpart = network().ann_counterpart()
    assert not any(isinstance(part, IntegerNeuron) for part in counterpart.modules())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_whole_numbers_cannot_say_are_refused(bad):
    unet = network()
    unet.stem.weight.data[0, 0, 0, 0] = bad
    with pytest.raises(UserError, match=r"to_integer: 1 of .* NaN or infinity: stem.weight"):
        to_integer(unet)
