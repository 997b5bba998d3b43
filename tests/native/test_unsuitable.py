"""The public functions of the C kernels refuse what they would read as something else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import conv2d

from spikediff.errors import UserError
from spikediff.events import PackedSpikes, pack, quantise, spike_conv2d
from spikediff.events.synapse import check_outcome, event_driven, offsets_of
from spikediff.events.training import weight_gradient
from spikediff.events.weights import event_weights
from spikediff.native import native, pointer
from spikediff.native.build import FLAGS, SOURCES, compiler, fingerprint
from spikediff.neurons import Dynamics
from spikediff.neurons.kernels import native as kernels

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(native() is None, reason="the C kernels are not built")

ONES = torch.ones(1, 1, 2, 5, 5)
WEIGHT = torch.ones(3, 2, 3, 3)


@pytest.mark.parametrize(
    ("spikes", "weight", "options"),
    [
        (torch.ones(1, 1, 2, 35, 35), torch.ones(3, 2, 33, 33), {}),
        (torch.ones(1, 1, 200, 5, 5), torch.ones(3, 1, 3, 3), {}),
        (torch.ones(1, 1, 3, 5, 5), WEIGHT, {}),
        (ONES, WEIGHT.half(), {}),
        (ONES, WEIGHT.double(), {}),
        (ONES, WEIGHT, {"bias": torch.ones(1)}),
        (ONES, WEIGHT, {"bias": torch.ones(3).double()}),
        (ONES, WEIGHT, {"padding": -1}),
        (ONES, WEIGHT, {"padding": 10**9}),
        (ONES, WEIGHT, {"stride": 0}),
        (ONES, WEIGHT, {"stride": 1.0}),
        (ONES, WEIGHT, {"stride": [1, 1]}),
        (ONES, torch.ones(3, 2, 0, 0), {}),
        (ONES, torch.ones(0, 2, 3, 3), {}),
        (ONES, torch.ones(3, 2, 9, 9), {}),
        (ONES, WEIGHT.to("meta"), {}),
        (ONES, WEIGHT.to_sparse(), {}),
        (ONES, WEIGHT * torch.nan, {}),
        (ONES * torch.nan, WEIGHT, {}),
        (0.5 * ONES, WEIGHT, {}),
        (ONES[0], WEIGHT, {}),
        (ONES.to(torch.complex64), WEIGHT, {}),
        (torch.ones(0, 1, 2, 5, 5), WEIGHT, {}),
        (torch.ones(1, 1, 2, 0, 5), WEIGHT, {"padding": 1}),
        (torch.ones(1, 1, 0, 5, 5), WEIGHT, {}),
        (ONES.to("meta"), WEIGHT, {}),
        (None, WEIGHT, {}),
        (ONES, None, {}),
    ],
)
def test_spike_conv2d_refuses(spikes, weight, options):
    with pytest.raises(UserError):
        spike_conv2d(spikes, weight, **options)


@pytest.mark.parametrize(
    ("words", "segments"),
    [
        (torch.zeros(1, 1, 5, 5, 1), (2,)),
        (torch.zeros(1, 1, 5, 5, 1, dtype=torch.int32), (2,)),
        (torch.zeros(1, 1, 5, 5, 1, dtype=torch.int64), (65,)),
        (torch.zeros(1, 1, 5, 5, 1, dtype=torch.int64), (0,)),
        (torch.zeros(1, 1, 5, 5, 1, dtype=torch.int64), ()),
        (torch.zeros(1, 5, 5, 1, dtype=torch.int64), (2,)),
        (torch.zeros(0, 1, 5, 5, 1, dtype=torch.int64), (2,)),
        (torch.zeros(1, 1, 5, 5, 1, dtype=torch.int64).to_sparse(), (2,)),
    ],
)
def test_packed_spikes_refuse(words, segments):
    with pytest.raises(UserError, match="PackedSpikes"):
        PackedSpikes(words, segments, 0.5)


def test_bits_behind_the_last_channel_are_refused():
    spikes = PackedSpikes(torch.full((1, 1, 5, 5, 1), -1), (2,), 1.0)
    with pytest.raises(UserError, match="where there is no channel"):
        spike_conv2d(spikes, WEIGHT)


def test_words_may_have_holes():
    spikes = (torch.rand(4, 6, 2, 5, 5) < 0.5).float()
    window = PackedSpikes(pack(spikes).words[:, ::2], (2,), 0.5)
    assert torch.equal(window.dense(), spikes[:, ::2])
    want = conv2d(spikes[:, ::2].flatten(0, 1), WEIGHT)
    torch.testing.assert_close(spike_conv2d(window, WEIGHT).flatten(0, 1), want)


def test_a_view_of_negative_numbers_is_read_as_it_is():
    weight = torch.complex(WEIGHT, -WEIGHT).conj().imag
    assert weight.is_neg()
    assert torch.equal(spike_conv2d(ONES, weight), spike_conv2d(ONES, WEIGHT))


def test_no_images_give_no_currents():
    assert spike_conv2d(torch.ones(2, 0, 2, 5, 5), WEIGHT).shape == (2, 0, 3, 3, 3)


def test_a_pointer_keeps_its_tensor():
    address = pointer(torch.arange(4).clone())
    assert address.tensor.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="on meta"):
        pointer(torch.zeros(2, device="meta"))


@pytest.mark.parametrize(
    ("current", "above"),
    [
        (torch.zeros(129, 2), torch.zeros(129, 2)),
        (torch.zeros(3, 2), torch.zeros(2, 2)),
        (torch.zeros(0, 2), torch.zeros(0, 2)),
        (torch.zeros(3, 2).long(), torch.zeros(3, 2)),
    ],
)
def test_the_backward_pass_of_a_neuron_refuses(current, above):
    with pytest.raises(UserError, match="neuron"):
        kernels.backward(current, above, 1.0, Dynamics(), True)


def test_a_neuron_refuses_a_state_of_another_shape():
    with pytest.raises(UserError, match=r"v_first \[4\] is no state of \[2, 3\]"):
        kernels.forward(torch.zeros(2, 3), 1.0, Dynamics(), torch.zeros(4))


def gradient_of_ones(window, grad):
    return weight_gradient(pack(window), grad, WEIGHT, [1, 1], [0, 0], [1, 1])


def test_the_weight_gradient_of_other_channels_is_refused_and_that_of_no_images_is_zero():
    with pytest.raises(UserError, match="weight gradient: 1 channels, 2 in weight"):
        gradient_of_ones(torch.ones(1, 1, 1, 5, 5), torch.ones(1, 3, 3, 3))
    grad = gradient_of_ones(torch.ones(2, 0, 2, 5, 5), torch.ones(0, 3, 3, 3))
    assert torch.equal(grad, torch.zeros_like(WEIGHT))


def test_currents_of_more_channels_than_there_are_weights_of_are_refused():
    window, events = pack(ONES), event_weights(WEIGHT, (2,))
    tables = offsets_of(window, WEIGHT, [1, 1], [0, 0], [1, 1])
    channels = events.rows.shape[0] * events.rows.shape[-1] + 1
    with pytest.raises(UserError, match=f"no weights of {channels} output channels"):
        event_driven(window, events, None, channels, *tables)
    with pytest.raises(UserError, match="a table of offsets is empty or has holes"):
        event_driven(window, events, None, 3, tables[0][:0], tables[1])


@pytest.mark.parametrize("bits", [4, 32])
def test_weights_are_rounded_to_8_or_16_bits(bits):
    with pytest.raises(UserError, match=f"needs real weights and 8 or 16 bits, not {bits}"):
        quantise(WEIGHT, bits)


def test_what_a_kernel_returns_is_told():
    check_outcome(0)
    with pytest.raises(UserError, match="the offsets do not fit this window and kernel"):
        check_outcome(-2)
    with pytest.raises(MemoryError, match="no memory for the lists of active channels"):
        check_outcome(-1)


def test_forward_packed_refuses_words_of_another_window():
    current = torch.zeros(2, 3, 65)
    for words in (torch.zeros(2, 3, 1).long(), torch.zeros(2, 3, 2), torch.zeros(2, 3, 4).long()):
        with pytest.raises(UserError, match="words"):
            kernels.forward_packed(current, words[..., ::2], 1.0, Dynamics())


@pytest.mark.slow
def test_sanitizers_see_no_fault(tmp_path):
    command = compiler()
    found, *standard = [  # the first throws by the second
        subprocess.run(
            [command, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    if not Path(found).is_absolute():
        pytest.skip("this compiler has no AddressSanitizer")
    library, folder = tmp_path / "sanitized.so", Path(kernels.__file__).parents[2] / "native"
    flags = [flag for flag in FLAGS if flag != "-O3"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g"]
    known = [f"-DFINGERPRINT={fingerprint()}u", "-march=native", "-fopenmp"]
    sources = [str(folder / name) for name in SOURCES]
    subprocess.run(
        [command, *flags, *sanitizers, *known, *sources, "-o", library, "-lm"], check=True
    )
    environment = os.environ | {
        "LD_PRELOAD": " ".join([found, *standard]),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(folder.parents[1]), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "2",
    }
    seed = int.from_bytes(os.urandom(3))
    print(f"seed {seed}")
    done = subprocess.run(
        [sys.executable, str(HERE / "unsuitable.py"), str(library), str(seed), "3000"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}:\n{done.stderr[:3000]}"
    assert "3000 cases" in done.stdout
