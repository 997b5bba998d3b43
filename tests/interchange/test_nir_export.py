"""Graphs say what the networks say: by NIR's own equations, spike for spike."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import run_nir
from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.interchange.nir.export import export_nir, host_duties, to_nir, write_nir
from spikediff.interchange.nir.graph import neuron_node
from spikediff.layers import TemporalScaling
from spikediff.neurons import LIF, NeuronLayer
from spikediff.systems.sddpm.blocks import Kit
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder

nir = pytest.importorskip("nir", reason="needs nir: pip install -e '.[nir]'")

UNET = {
    "sample_size": 6,
    "in_channels": 2,
    "base_channels": 6,
    "channel_mult": (1,),
    "layers_per_block": 1,
    "spiking_steps": 3,
    "neuron": "lif",
    "readout": "mean",
    "spiking_head": True,
}


def lively(model):
    """Give a network norms that have seen something, and neurons that fire; in float64."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                module.running_var.uniform_(0.02, 0.1, generator=generator)
                module.bias.uniform_(0.2, 1.0, generator=generator)
        if isinstance(model, SpikingUNet):
            model.head.conv.weight.uniform_(-0.2, 0.2, generator=generator)
    return model.double().eval()


def unet(**options):
    torch.manual_seed(0)
    return lively(SpikingUNet(**{**UNET, **options}))


def decoder(**options):
    torch.manual_seed(0)
    shape = {"codebook_size": 8, "widths": (6, 10, 8), "spiking_steps": 4}
    return lively(SpikingImageDecoder(**{**shape, **options}))


def spikes_of(model, *inputs):
    """Return the estimate and the spikes of every neuron layer by its name."""
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
        for name, module in model.named_modules()
        if isinstance(module, NeuronLayer)
    ]
    with torch.no_grad():
        estimate = model(*inputs).sample
    for hook in hooks:
        hook.remove()
    return estimate, seen


def through_a_file(graph, tmp_path):
    nir.write(tmp_path / "graph.nir", graph)
    return nir.read(tmp_path / "graph.nir")


def assert_same(model, exported, x, estimate, spikes, tmp_path=None):
    """Run a graph, read back from a file where a folder is given, and compare."""
    graph = exported.graph if tmp_path is None else through_a_file(exported.graph, tmp_path)
    ran = run_nir.run(graph, x, model.config.spiking_steps, exported.facts["dt"])
    for name, ours in spikes.items():
        parts = sorted(key for key in ran if key == name or key.startswith(f"{name}.part"))
        assert 0.01 < ours.mean() < 0.99, f"{name} says nothing"
        assert torch.equal(torch.cat([ran[part] for part in parts], dim=2), ours), name
    torch.testing.assert_close(ran["output"].mean(0), estimate)


@pytest.mark.parametrize(
    "options",
    [
        {"block": "plain"},
        {"block": "pre_spike"},
        {"block": "pre_spike", "neuron": "if"},
        {"block": "plain", "neuron": "plif", "neuron_options": {"init_tau": 3.0}},
        {
            "block": "plain",
            "neuron_options": {"decay": 0.8, "decay_input": False, "strict_threshold": True},
        },
        {"block": "plain", "neuron_options": {"v_reset": -0.3, "v_threshold": 0.6}},
        {"block": "pre_spike", "layers_per_block": 2, "temporal_scaling": True},
    ],
)
def test_a_unet(options, tmp_path):
    model = unet(**options)
    for module in model.modules():
        if isinstance(module, TemporalScaling):
            module.p.data.fill_(1.25)
    x = torch.rand(2, 2, 6, 6, dtype=torch.float64) * 2 - 1
    estimate, spikes = spikes_of(model, x, 400)
    folder = tmp_path if "neuron" in options else None
    assert_same(model, export_nir(model, 400), x, estimate, spikes, folder)


@pytest.mark.parametrize("source", ["embedding", "raw"])
def test_the_decoder_of_tokens(source):
    model = decoder(input=source)
    tokens = torch.randint(9, (2, 4, 5))
    estimate, spikes = spikes_of(model, tokens, 3)
    exported = export_nir(model, sample_size=(4, 5))
    x = model._encode(tokens, 3).detach()
    if source == "embedding":
        rows = exported.host["embedding"][tokens].movedim(-1, 1)
        assert torch.equal(rows, x)
    assert_same(model, exported, x, estimate, spikes)


def test_classes_and_patches():
    model = unet(block="plain", num_classes=3, patch_size=2)
    with torch.no_grad():
        model.class_embedding.table.weight.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64) * 2 - 1
    estimate, spikes = spikes_of(model, x, 400, torch.tensor([1]))
    exported = export_nir(model, 400, class_label=1)
    patches = F.pixel_unshuffle(x, 2)
    ran = run_nir.run(exported.graph, patches, 3, exported.facts["dt"])
    assert torch.equal(ran["up_blocks.1.neuron2"], spikes["up_blocks.1.neuron2"])
    torch.testing.assert_close(F.pixel_shuffle(ran["output"].mean(0), 2), estimate)
    other = run_nir.run(to_nir(model, 400, class_label=2), patches, 3, 1e-4)
    assert not torch.equal(other["output"], ran["output"])
    duties = " ".join(host_duties(exported.facts, exported.host))
    assert "pixel_unshuffle" in duties
    assert "pixel_shuffle" in duties
    tokens, model = torch.randint(9, (1, 4, 4)), decoder(num_classes=3)
    estimate, spikes = spikes_of(model, tokens, None, torch.tensor([2]))
    exported = export_nir(model, sample_size=4, class_label=2)
    vectors = exported.host["embedding"][tokens].movedim(-1, 1)
    assert_same(model, exported, vectors, estimate, spikes)
    with pytest.raises(UserError, match="trained without classes"):
        to_nir(decoder(), sample_size=4, class_label=2)


def test_a_skip_that_is_cut_where_its_channels_come_from(tmp_path):
    """An identity shortcut of a concatenation: as wide behind the block as before it."""
    model = unet(block="pre_spike", channel_mult=(2,))
    block = model.up_blocks[0]
    block.shortcut.conv = torch.nn.Identity()
    wide = block.synapse1.conv.in_channels
    torch.manual_seed(1)
    block.synapse2.conv = torch.nn.Conv2d(12, wide, 3, padding=1).double()
    block.synapse2.norm = lively(torch.nn.BatchNorm2d(wide))
    follower = type(block)(Kit(LIF, embedding_channels=24), wide + 6, 12).double().eval()
    model.up_blocks[1] = lively(follower)
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64)
    estimate, spikes = spikes_of(model, x, 10)
    assert_same(model, export_nir(model, 10), x, estimate, spikes, tmp_path)


def test_resistance_is_one_and_readers_find_their_time():
    leaky = to_nir(unet(neuron_options={"decay": 0.8, "decay_input": False}), 1)
    neurons = [node for node in leaky.nodes.values() if isinstance(node, nir.LIF)]
    assert len(neurons) == 14  # 12 layers, two of which see a concatenation
    for node in neurons:
        assert (node.r == 1).all()
        assert not node.v_leak.any()
        assert not node.v_reset.any()
        assert 1 - 1e-4 / node.tau == pytest.approx(0.8)
    model = unet(neuron="if")
    exported = export_nir(model, 1)
    assert exported.facts["dt"] == 1.0
    kinds = {type(node): node for node in exported.graph.nodes.values()}
    assert (kinds[nir.IF].r == 1).all()
    finer = {type(node): node for node in to_nir(model, 1, dt=1e-4).nodes.values()}
    assert (finer[nir.IF].r == 1e4).all()
    with pytest.raises(UserError, match="dt = 0"):
        to_nir(model, 1, dt=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strict", [False, True])
def test_a_membrane_at_the_threshold(dtype, strict):
    """u = threshold exactly, and the numbers beside it."""
    neuron = LIF(decay=0.5, decay_input=True, strict_threshold=strict)
    at = torch.tensor(2.0, dtype=dtype)
    below, above = (torch.nextafter(at, torch.tensor(end, dtype=dtype)) for end in (0.0, 3.0))
    current = torch.stack([below, at, above])  # half of each is charged
    node = neuron_node(nir, neuron, (3,), 1e-4, dtype)
    graph = nir.NIRGraph.from_list(node)
    fired = run_nir.run(graph, current[None], 1, 1e-4)["lif"][0, 0]
    assert torch.equal(fired, neuron(current[None])[0])
    assert fired.tolist() == [0.0, 0.0 if strict else 1.0, 1.0]


def test_only_biases_know_the_timestep():
    model = unet()
    early, late = to_nir(model, 10), to_nir(model, 900)
    changed = set()
    for name, node in early.nodes.items():
        if isinstance(node, nir.Conv2d):
            other = late.nodes[name]
            assert (node.weight == other.weight).all()
            if (node.bias != other.bias).any():
                changed.add(name)
    blocks = [name for name, module in model.named_modules() if hasattr(module, "timestep_bias")]
    first = {f"{name}.synapse1.conv" for name in blocks}
    assert {name.removesuffix(".from0") for name in changed} == first
    assert early.metadata["timestep"] == 10.0


def test_the_host_may_compute_the_first_convolution(tmp_path):
    model = unet()
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64)
    estimate, spikes = spikes_of(model, x, 5)
    exported = export_nir(model, 5, first_on_host=True)
    assert "stem.encode.conv" not in exported.graph.nodes
    weight, bias = (exported.host[f"stem.encode.conv.{word}"] for word in ("weight", "bias"))
    current = F.conv2d(x, weight, bias, padding=1)
    assert_same(model, exported, current, estimate, spikes, tmp_path)


def test_a_host_that_follows_the_index_makes_the_images_of_the_pipeline(tmp_path):
    """Nothing of spikediff in the loop but the scheduler, which is diffusers'."""
    model, scheduler = unet(), make_scheduler("ddim", {"prediction_type": "v_prediction"})
    pipe = SpikingDiffusionPipeline(model, scheduler)
    pipe.set_progress_bar_config(disable=True)
    seen = []
    pipe(
        seeds=[3],
        num_inference_steps=3,
        callback_on_step_end=lambda _p, _i, _t, state: seen.append(state["sample"]) or state,
    )
    write_nir(model, scheduler, 3, tmp_path / "out", first_on_host=True)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    host = load_file(tmp_path / "out" / index["host_tensors"]["file"])
    assert [step["file"] for step in index["steps"]] == [
        f"timestep_{int(t)}.nir" for t in scheduler.timesteps
    ]
    scheduler = make_scheduler("ddim", index["scheduler"]["config"])
    scheduler.set_timesteps(index["scheduler"]["num_inference_steps"])
    weights = torch.tensor(index["readout_weights"], dtype=torch.float64).view(-1, 1, 1, 1, 1)
    noise = torch.Generator().manual_seed(3)
    sample = torch.randn(1, 2, 6, 6, generator=noise, dtype=torch.float64)
    first = index["first_convolution"]
    for step, want in zip(index["steps"], seen, strict=True):
        graph = nir.read(tmp_path / "out" / step["file"])
        current = F.conv2d(sample, host[f"{first}.weight"], host[f"{first}.bias"], padding=1)
        ran = run_nir.run(graph, current, index["spiking_steps"], index["dt"])
        estimate = (weights * ran["output"]).sum(0)
        sample = scheduler.step(estimate, int(step["timestep"]), sample).prev_sample
        torch.testing.assert_close(sample, want)


def test_the_index_is_strict_json(tmp_path):
    """DPM-Solver++ has a setting of minus infinity, for which JSON has no word."""
    write_nir(unet(), make_scheduler("dpmsolver++"), 2, tmp_path / "out")
    text = (tmp_path / "out" / "index.json").read_text()
    index = json.loads(text, parse_constant=pytest.fail)
    assert make_scheduler("dpmsolver++", index["scheduler"]["config"]).config.solver_order == 2


def test_the_decoder_of_tokens_needs_one_graph_for_all_timesteps(tmp_path):
    model = SpikingImageDecoder(codebook_size=8, widths=(8,), spiking_steps=2).eval()
    scheduler = AbsorbingStateScheduler(num_train_timesteps=16, mask_token=8)
    index = write_nir(model, scheduler, 4, tmp_path / "out", sample_size=4)
    assert [step["timestep"] for step in index["steps"]] == [16, 12, 8, 4]
    assert {step["file"] for step in index["steps"]} == {"network.nir"}


def test_the_command(tmp_path, capsys):
    pipe = SpikingDiffusionPipeline(unet().float(), make_scheduler("ddim"))
    pipe.save_pretrained(tmp_path / "model")
    out, told = tmp_path / "out", tmp_path / "told.json"
    arguments = ["export", str(tmp_path / "model"), "--output", str(out)]
    assert main([*arguments, "--num-inference-steps", "2", "--json", str(told)]) == 0
    assert "2 graph(s) for 2 network calls of DDIMScheduler" in capsys.readouterr().out
    index = json.loads((out / "index.json").read_text())
    assert index["shapes"] == {"input": [2, 6, 6], "output": [2, 6, 6]}
    assert json.loads(told.read_text()) == {"format": "nir", "output": str(out), **index}
    assert nir.read(out / index["steps"][0]["file"]).metadata["network"] == "SpikingUNet"
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    for wrong in (["--num-inference-steps", "0"], ["--format", "onnx", "--dt", "1"]):
        assert main([*arguments, *wrong]) == 2
