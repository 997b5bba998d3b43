"""How a step is computed: precision, devices and kept activations; the results stay."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import conv2d

from sizes import U_NET
from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.events import SpikeConv2d
from spikediff.layers import SpikingLayer
from spikediff.native import native
from spikediff.neurons import LIF
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training.computation import (
    _Bits,
    _pack,
    _unpack,
    compressed_activations,
    cpu_has_bf16,
    keep_large_tensors,
    make_accelerator,
    prepare_computation,
    usable_precision,
)
from spikediff.training.recipe import (
    TrainingRecipe,
    load_recipe,
)
from spikediff.training.trainer import Trainer

CPU = torch.device("cpu")


def _networks():
    torch.manual_seed(0)
    yield SpikingUNet(**U_NET, dropout=0.2)
    yield SpikingUNet(**U_NET, block="plain")
    yield SynapticCurrentUNet(**U_NET, spiking_steps=4)


def _step(model):
    torch.manual_seed(1)
    x, target = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    torch.manual_seed(2)  # of dropout
    loss = (model(x, 10).sample - target).square().mean()
    loss.backward()
    return loss


@pytest.mark.parametrize("model", _networks(), ids=lambda m: type(m).__name__)
def test_checkpointing_changes_no_gradient_and_no_statistic(model):
    model.train()
    again = copy.deepcopy(model)
    prepare_computation(again, TrainingRecipe(gradient_checkpointing=True), CPU)
    assert _step(model) == _step(again)
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)


def test_another_function_for_checkpointing_is_refused():
    with pytest.raises(UserError, match=r"SpikingUNet: .* would let norms see a batch twice"):
        SpikingUNet(**U_NET).enable_gradient_checkpointing(lambda block, *inputs: block(*inputs))


def test_checkpointing_keeps_less():
    model = SpikingUNet(
        sample_size=16, in_channels=1, base_channels=8, channel_mult=(1, 2), layers_per_block=1
    ).train()

    def kept():
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda x: (sizes.append(x.nbytes), x)[1], lambda x: x
        )
        with hooks:
            model(torch.randn(2, 1, 16, 16), 10)
        return sum(sizes)

    plain = kept()
    prepare_computation(model, TrainingRecipe(gradient_checkpointing=True), CPU)
    assert kept() < 0.6 * plain


@pytest.mark.skipif(native() is None, reason="the C kernels are not built")
def test_event_driven_training_swaps_convolutions_and_keeps_names_and_values():
    model = SpikingUNet(
        sample_size=8, in_channels=1, base_channels=32, channel_mult=(1, 2), layers_per_block=1
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepare_computation(model, TrainingRecipe(event_driven=True), CPU)
    assert any(isinstance(m, SpikeConv2d) for m in model.modules())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("event_driven", [False, True])
def test_muon_steps_on_the_kernels_that_are_trained(event_driven, small, with_steps, tmp_path):
    recipe = with_steps(small, 2, event_driven=event_driven)  # puts kernels channels-last
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, name="muon"))
    trainer = Trainer(recipe, tmp_path, show_progress=False)
    kernels = [p for p in trainer.network_in_training.parameters() if p.dim() == 4]
    before = [kernel.detach().clone() for kernel in kernels]
    assert trainer.train()
    assert not any(torch.equal(*pair) for pair in zip(kernels, before, strict=True))


def test_half_precision_and_gpus_keep_their_dense_convolutions():
    for recipe, device in (
        (TrainingRecipe(event_driven=True, mixed_precision="bf16"), CPU),
        (TrainingRecipe(event_driven=True), torch.device("cuda")),
    ):
        model = SpikingUNet(**U_NET)
        prepare_computation(model, recipe, device)
        assert not any(isinstance(m, SpikeConv2d) for m in model.modules())


def test_an_ordinary_network_has_no_events(caplog):
    model = VAE(sample_size=8, in_channels=1, channels=(4, 8), latent_channels=4)
    prepare_computation(model, TrainingRecipe(event_driven=True), CPU)
    assert not any(isinstance(m, SpikeConv2d) for m in model.modules())
    assert "has no effect: VAE emits no binary spikes" in caplog.text


def test_keeping_large_tensors_says_whether_it_did():
    assert keep_large_tensors() in (True, False)


def no_symbol(_name):
    return object()


def no_library(_name):
    raise OSError("not found")


@pytest.mark.parametrize(
    ("name", "value"),
    [("sys.platform", "darwin"), ("ctypes.CDLL", no_symbol), ("ctypes.CDLL", no_library)],
)
def test_a_system_without_glibc_is_told_that_it_keeps_nothing(name, value, monkeypatch, caplog):
    model = SpikingUNet(**U_NET)
    caplog.set_level("INFO", "spikediff")
    monkeypatch.setattr(name, value)
    assert keep_large_tensors() is False
    prepare_computation(model, TrainingRecipe(keep_large_tensors=True), CPU)
    assert "this system's C library has no such switch" in caplog.text


needs_native = pytest.mark.skipif(native() is None, reason="the C kernels are not built")


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("one", [1.0, 1.25, -2.0])
@pytest.mark.parametrize("layout", ["plain", "channels_last", "transposed"])
def test_two_values_come_back_bit_for_bit(dtype, one, layout):
    x = torch.where(torch.rand(4, 37, 9, 11) < 0.3, one, 0.0).to(dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        x = x.transpose(0, 3)
    saved = _pack(x)
    assert isinstance(saved, _Bits)
    assert saved.words.numel() * 8 <= x.numel() / 8 + 8
    back = _unpack(saved)
    assert back.dtype == x.dtype
    assert back.stride() == x.stride()
    assert torch.equal(back, x)


@needs_native
@pytest.mark.parametrize("at", [0, 4095, 65536 + 70, -1])
def test_a_third_value_anywhere_is_kept_as_it_is(at):
    x = (torch.rand(200_000) < 0.3).float()
    x[at] = 0.5
    assert _pack(x) is x


@needs_native
def test_all_zeros_and_all_ones():
    for x in (torch.zeros(5000), torch.ones(5000)):
        assert torch.equal(_unpack(_pack(x)), x)


@needs_native
def test_what_has_holes_or_is_a_weight_is_kept_as_it_is():
    zeros = torch.zeros(200, 200)
    for x in (zeros[:, ::2], torch.zeros(1, 200).expand(200, 200), torch.nn.Parameter(zeros)):
        assert _pack(x) is x


@needs_native
def test_gradients_are_those_without_it_bit_for_bit():
    torch.manual_seed(0)
    layers = [
        SpikingLayer(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8), LIF())
        for _ in range(2)
    ]
    x = (torch.rand(4, 4, 8, 16, 16) < 0.3).float()
    results = []
    for context in (
        torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
        compressed_activations(),
    ):
        weights = [p for layer in layers for p in layer.parameters()]
        with context:
            out = layers[1](layers[0](x))
        results.append(torch.autograd.grad(out.square().sum(), weights))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_native
def test_a_layer_of_convolution_norm_and_neuron_keeps_little_more_than_one_window():
    """Issue 7's target: 1.2 tensors a layer, where SpikingJelly's eager layers keep 4.75."""
    kept = []

    def pack(x):
        saved = _pack(x)
        kept.append(saved.words.nbytes if isinstance(saved, _Bits) else _bytes(x))
        return saved

    def _bytes(x):
        return 0 if isinstance(x, torch.nn.Parameter) else x.nbytes

    layer = SpikingLayer(torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.BatchNorm2d(16), LIF())
    x = (torch.rand(4, 8, 16, 16, 16) < 0.2).float().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        layer(x).sum().backward()
    assert sum(kept) <= 1.2 * x.nbytes


def test_without_kernels_nothing_changes(monkeypatch):
    monkeypatch.setattr("spikediff.training.computation.native", lambda: None)
    monkeypatch.setattr("spikediff.training.computation._pack", None)  # is not called
    x, weight = torch.zeros(1, 8, 32, 32), torch.randn(8, 8, 3, 3, requires_grad=True)
    with compressed_activations():
        y = conv2d(x, weight)
    y.sum().backward()
    assert weight.grad is not None


def test_what_a_cpu_says_of_bf16(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx2 avx512f\n")
    assert cpu_has_bf16(cpuinfo) is False
    cpuinfo.write_text("flags : fpu avx2 avx512f avx512_bf16\n")
    assert cpu_has_bf16(cpuinfo) is True


@pytest.mark.usefixtures("fresh_accelerator")
def test_runs_of_one_process_may_differ_in_precision(small, tmp_path):
    for precision in ("no", "bf16", "no"):
        training = replace(small.training, mixed_precision=precision)
        made = make_accelerator(replace(small, training=training), tmp_path)
        assert made.mixed_precision == precision


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "unknown tracker 'nonsense'; choose from aim"),
        ("all", "unknown tracker 'all'; choose from aim"),
        ("comet_ml", "comet_ml is not installed"),
    ],
)
def test_trackers_that_are_not_there_are_told(name, words, small, tmp_path):
    from spikediff.training.trainer import Trainer

    recipe = replace(small, training=replace(small.training, trackers=(name,)))
    with pytest.raises(UserError, match=f"training.trackers: {words}"):
        Trainer(recipe, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()


SMALL = ["--training.steps", "1", "--sampling.num-images", "1", "--sampling.num-inference-steps"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_cpu_without_units_trains_in_float32(precision, monkeypatch, caplog):
    monkeypatch.setattr("spikediff.training.computation.cpu_has_bf16", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert usable_precision(precision, "cpu") == "no"
    [record] = caplog.records
    assert "training in float32" in record.getMessage()
    assert usable_precision(precision, "cuda") == precision
    assert usable_precision("no", "cpu") == "no"


def test_a_recipe_in_bf16_runs_and_says_what_was_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("spikediff.training.computation.cpu_has_bf16", lambda: False)
    root = tmp_path / "run"
    call = ["train", "sddpm/digits", "--output", str(root), *SMALL, "1"]
    call += ["--model.base-channels", "4", "--model.channel-mult", "1"]
    call += ["--model.layers-per-block", "1", "--model.spiking-steps", "1"]
    assert main([*call, "--training.mixed-precision", "bf16"]) == 0
    assert load_recipe(root / "recipe.yaml").training.mixed_precision == "no"
    said = capsys.readouterr().out
    assert "parameters, on 1,442 items of digits (1 x 8)" in said


def test_a_foreign_accumulation_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UserError, match="would divide every gradient"):
        Trainer(small, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()
