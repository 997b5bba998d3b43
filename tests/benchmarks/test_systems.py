"""What is compared computes the same; what does not is no row."""

import copy
from dataclasses import replace

import pytest
import torch

from performance import (
    naive_peer,
    network_section,
    neuron_section,
    resident,
    sources,
    spikingjelly_peer,
    systems,
)
from performance.agreement import agreeing, check_shape, difference, relative_error
from performance.missing import Missing
from performance.recorded_spikes import spikes_seen
from performance.settings import Settings
from performance.surgery import with_neurons
from sizes import U_NET
from spikediff.neurons import IF, LIF, NeuronLayer, ParametricLIF


@pytest.fixture(scope="module")
def source():
    return sources.random(2, **U_NET)


def needs_spikingjelly():
    try:
        spikingjelly_peer.parts()
    except Missing as reason:
        pytest.skip(str(reason))


def test_agreement_tells_right_from_wrong():
    want = torch.tensor([1.0, -4.0])
    answers = {
        "right": lambda: (want + 1e-9,),
        "wrong": lambda: (want + 0.04,),
        "broken": lambda: (want * torch.nan,),
    }
    found, wrong = agreeing(answers, (want,))
    assert found["wrong"] == pytest.approx(0.01, rel=1e-5)
    assert set(wrong) == {"wrong", "broken"}


def test_a_result_of_another_shape_is_no_row():
    with pytest.raises(Missing, match="instead of"):
        check_shape("x", torch.ones(2), torch.ones(3))


@pytest.mark.parametrize("v_reset", [0.0, -0.2, None])
@pytest.mark.parametrize("surrogate", ["atan", "sigmoid"])
@pytest.mark.parametrize("make", [IF, LIF], ids=["if", "lif"])
def test_the_naive_neuron_is_ours(make, surrogate, v_reset):
    layer = make(surrogate=surrogate, v_reset=v_reset)
    current = torch.randn(4, 50, dtype=torch.float64)
    grad = torch.randn(4, 50, dtype=torch.float64)
    got, want = (
        neuron_section.spikes_and_gradient(systems.System(network), current, grad)
        for network in (naive_peer.network(layer), layer)
    )
    assert difference(got[0], want[0]) == 0
    assert difference(got[1], want[1]) < 1e-12


def test_the_naive_network_has_no_neuron_that_it_does_not_know():
    with pytest.raises(Missing, match="ParametricLIF"):
        naive_peer.network(ParametricLIF())


def test_every_neuron_is_replaced_and_every_weight_kept(source):
    made = with_neurons(source.model, naive_peer.NaiveNeuron)
    ours = [m for m in source.model.modules() if isinstance(m, NeuronLayer)]
    theirs = [m for m in made.modules() if isinstance(m, naive_peer.NaiveNeuron)]
    assert len(ours) == len(theirs) > 0
    assert not any(isinstance(m, NeuronLayer) for m in made.modules())
    for a, b in zip(source.model.parameters(), made.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b


def test_the_naive_network_agrees_with_ours(source):
    found, wrong = network_section._agreement(source)
    assert found[systems.NAIVE] < 1e-9
    assert systems.NAIVE not in wrong


def test_spikingjellys_network_agrees_with_ours_from_call_to_call(source):
    needs_spikingjelly()
    wide = copy.deepcopy(source.model).double()
    theirs = systems.build(systems.PEER, wide, training=False)
    sample = source.sample.double()
    want = systems.forward(systems.System(wide), sample, 500)()
    for _ in range(2):  # without a reset the second call goes on from the first one's membranes
        assert difference(systems.forward(theirs, sample, 500)(), want) < 1e-9


def test_a_network_that_computes_something_else_is_no_row(source, monkeypatch):
    def leaky(model):
        return with_neurons(model, lambda layer: naive_peer.NaiveNeuron(LIF()))

    monkeypatch.setattr(naive_peer, "network", leaky)
    _, wrong = network_section._agreement(source)
    assert "computes something else" in wrong[systems.NAIVE]


def test_a_training_step_leaves_gradients_and_clear_drops_them(source):
    system = systems.build(systems.REFERENCE, source.model, training=True)
    systems.training_step(system, source.sample, 500, torch.randn_like(source.sample))()
    assert all(p.grad is not None for p in system.network.parameters() if p.requires_grad)
    system.clear()
    assert all(p.grad is None for p in system.network.parameters())


def test_random_weights_are_called_so_and_fire(source):
    assert source.weights == sources.RANDOM
    assert "random weights" in source.title
    assert 0 < source.firing["neurons"] < 1
    assert all(0 <= rate <= 1 for rate in source.firing["layers"].values())


def test_ways_and_tasks_by_name(source):
    settings = Settings(quick=True, tasks=("forward",), ways=("naive", "ours compiled"))
    chosen = network_section._chosen(network_section.FORWARD, settings)
    assert chosen == ["naive", "ours reference", "ours compiled"]
    only = replace(settings, times_only=True, ways=("naive", "ours reference"))
    (group,) = network_section._compare(source, only, resident.Network(None))
    assert group.name.startswith("forward")
    assert list(group.rows) == ["naive", "ours reference"]


def test_without_a_network_nothing_is_measured_and_it_is_said(capsys):
    assert list(network_section.measure(Settings())) == []
    assert "--random-weights" in capsys.readouterr().out


def test_a_run_that_is_not_there_is_said(tmp_path, capsys):
    assert list(network_section.measure(Settings(sddpm=tmp_path / "nowhere"))) == []
    said = capsys.readouterr().out
    assert "no such folder" in said
    assert str(tmp_path) not in said


def test_recorded_spikes_are_what_the_convolutions_saw(source):
    seen = spikes_seen(source, geometries=3)
    assert len({one.geometry for one in seen}) == len(seen) == 3
    for one in seen:
        assert set(one.spikes.unique().tolist()) == {0.0, 1.0}
        assert one.conv is source.model.get_submodule(one.layer)
    assert not any(m._forward_pre_hooks for m in source.model.modules())


def test_gradients_of_the_naive_network_are_ours(source):
    names = (systems.REFERENCE, systems.NAIVE)
    made = {n: systems.build(n, source.model, training=True) for n in names}
    eps = torch.randn(source.sample.shape)
    steps = {n: systems.training_step(s, source.sample, 500, eps) for n, s in made.items()}
    errors = network_section._gradient_errors(made, steps)
    assert errors[systems.REFERENCE] == 0
    assert errors[systems.NAIVE] < 1e-3


def test_a_relative_error_is_over_all_tensors():
    one = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert relative_error([torch.tensor([3.0]), torch.tensor([3.0])], one) == pytest.approx(0.2)
