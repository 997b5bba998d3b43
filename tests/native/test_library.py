"""The compiled library: found, refused, gone without, built; the same spikes on every processor."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import spikediff.native as room
from spikediff.errors import UserError
from spikediff.events import EventConv2d, pack, quantise
from spikediff.native import library, library_of, native, native_name
from spikediff.native.build import build, compiler, file_name, targets
from spikediff.neurons import Dynamics, window
from spikediff.neurons.kernels import kernel_for, using
from spikediff.systems.integer.convolution import change_conv2d, count_conv2d, event_conv2d

FOLDER = Path(room.__file__).parent
needs_native = pytest.mark.skipif(native() is None, reason="the C kernels are not built")


@pytest.fixture
def fresh(monkeypatch):
    """Load anew in this test, and again after it."""
    library._load.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    library._load.cache_clear()


def test_none_goes_without(fresh):
    fresh.setenv("SPIKEDIFF_NATIVE", "none")
    assert native() is None
    assert native_name() == "none"
    current = torch.tensor([[0.6], [0.6]])
    assert kernel_for(current, Dynamics()) == "reference"
    assert window(current, Dynamics()).flatten().tolist() == [0.0, 1.0]
    with pytest.raises(UserError, match=r"python -m spikediff\.native\.build"):
        library_of()


@pytest.mark.parametrize("wanted", ["avx1024", "amx", "vnni", "avx512"])
def test_a_library_that_does_not_run_here_is_refused(fresh, wanted):
    fresh.setattr("platform.machine", lambda: "x86_64")
    fresh.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    fresh.setenv("SPIKEDIFF_NATIVE", wanted)
    with pytest.raises(UserError, match=f"NATIVE='{wanted}': choose from avx2, baseline, none"):
        library.candidates()
    fresh.setenv("SPIKEDIFF_NATIVE", "baseline")
    assert library.candidates() == ("baseline",)


@pytest.mark.parametrize(
    ("machine", "capability", "keys"),
    [
        ("aarch64", "NEON", ("baseline",)),
        ("x86_64", "AVX2", ("avx2", "baseline")),
        ("AMD64", "of tomorrow", ("baseline",)),
    ],
)
def test_the_processor_decides_which_libraries_run(fresh, machine, capability, keys):
    fresh.delenv("SPIKEDIFF_NATIVE", raising=False)
    fresh.setattr("platform.machine", lambda: machine)
    fresh.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert library.candidates() == keys
    assert set(keys) <= targets().keys()


def test_a_library_without_a_fingerprint_is_not_ours():
    with pytest.warns(UserWarning, match="compiled from other sources"):
        assert library.open_library(Path(torch._C.__file__)) is None


def test_tiles_are_for_processes_that_may_use_them(fresh):
    fresh.delenv("SPIKEDIFF_NATIVE", raising=False)
    fresh.setattr(library.platform, "machine", lambda: "x86_64")
    fresh.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    fresh.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    fresh.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    fresh.setattr(torch.cpu, "_init_amx", lambda: True)
    assert library.candidates() == ("amx", "vnni", "avx512", "avx2", "baseline")
    fresh.setattr(torch.cpu, "_init_amx", lambda: False)  # the system said no
    assert library.candidates() == ("vnni", "avx512", "avx2", "baseline")
    fresh.setenv("SPIKEDIFF_NATIVE", "amx")
    with pytest.raises(UserError, match="choose from vnni, avx512"):
        library.candidates()


@needs_native
def test_a_library_of_another_system_is_passed_over(fresh, tmp_path):
    fresh.delenv("SPIKEDIFF_NATIVE", raising=False)
    fresh.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert native_name() == "none"  # the folder is empty
    fresh.setattr(library, "candidates", lambda: ("avx2", "baseline"))
    (tmp_path / file_name("avx2")).write_bytes(b"no library")
    (tmp_path / file_name("baseline")).write_bytes((FOLDER / file_name("baseline")).read_bytes())
    library._load.cache_clear()
    assert native_name() == "baseline"
    assert window(torch.tensor([0.6, 0.6]), Dynamics()).tolist() == [0.0, 1.0]


@needs_native
def test_a_library_of_an_older_source_is_passed_over(fresh, tmp_path):
    """As an editable install may keep it; its functions might take other arguments."""
    fresh.setattr(library, "__file__", str(tmp_path / "library.py"))
    fresh.setattr(library, "candidates", lambda: ("baseline",))
    source = tmp_path / "older.c"
    source.write_text("unsigned spikediff_fingerprint(void) { return 1; }\n")
    command = compiler()
    if command is None:
        pytest.skip("no C compiler")
    made = [command, "-shared", "-fPIC", str(source), "-o", str(tmp_path / file_name("baseline"))]
    subprocess.run(made, check=True)
    with pytest.warns(UserWarning, match="compiled from other sources"):
        assert native_name() == "none"


def runnable():
    """Return the keys of the libraries that lie here and whose instructions this machine has."""
    return [key for key in library.candidates() if (FOLDER / file_name(key)).exists()]


@needs_native
@pytest.mark.parametrize("key", runnable())
def test_every_library_gives_the_same_spikes(fresh, key):
    """Products of few bits are exact, so that no library may round them otherwise."""
    fresh.setenv("SPIKEDIFF_NATIVE", key)
    noise = torch.randn(6, 777, generator=torch.Generator().manual_seed(0))
    current = (noise * 256).round() / 256
    assert native_name() == key
    for decay, v_reset in ((1.0, 0.0), (1.0, None), (0.5, 0.0), (0.5, None), (0.5, -0.25)):
        with using("native"):
            spikes = window(current, Dynamics(v_reset=v_reset), decay)
        with using("reference"):
            assert torch.equal(spikes, window(current, Dynamics(v_reset=v_reset), decay))


@needs_native
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("key", runnable())
@torch.no_grad()
def test_every_library_gives_the_same_currents_of_whole_weights(fresh, key, bits):
    """The sum is exact, and then rounded as torch rounds it: in three operations."""
    fresh.setenv("SPIKEDIFF_NATIVE", key)
    torch.manual_seed(0)
    conv, spikes = nn.Conv2d(70, 45, 3, padding=1), (torch.rand(4, 2, 70, 5, 4) < 0.3).float()
    whole, scales = quantise(conv.weight, bits)
    sums = nn.functional.conv2d(spikes.flatten(0, 1).double(), whole.double(), padding=1)
    want = sums.float() * scales.view(-1, 1, 1) + conv.bias.view(-1, 1, 1)
    got = EventConv2d(conv, "int8" if bits == 8 else "int16")(pack(spikes).flatten(0, 1))
    assert native_name() == key
    assert torch.equal(got, want)


@needs_native
@pytest.mark.parametrize("key", runnable())
def test_every_library_gives_the_same_sums_of_counts(fresh, key):
    fresh.setenv("SPIKEDIFF_NATIVE", key)
    torch.manual_seed(0)
    before, now = (torch.randint(0, 128, (2, 70, 7, 6), dtype=torch.uint8) for _ in range(2))
    weight = torch.randint(-128, 128, (45, 70, 3, 3), dtype=torch.int8)
    first, want = (
        nn.functional.conv2d(x.double(), weight.double(), padding=1) for x in (before, now)
    )
    assert native_name() == key
    for counts in (count_conv2d, event_conv2d):
        assert torch.equal(counts(now, weight, 1, 1).double(), want)
    assert torch.equal(change_conv2d(now, before, first.int(), weight, 1, 1).double(), want)


SPIKES = """
import torch
from spikediff.native import native_name
from spikediff.neurons import Dynamics, window
from spikediff.neurons.kernels import using
current = torch.randn(8, 5000, generator=torch.Generator().manual_seed(0))
for decay in (1.0, 0.7, torch.tensor(0.7)):
    with using("native"):
        spikes = window(current, Dynamics(), decay)
    with using("reference"):
        assert torch.equal(spikes, window(current, Dynamics(), decay))
print(native_name())
"""


@pytest.mark.slow
@needs_native
def test_on_an_older_processor_the_spikes_are_those_of_torch_there():
    env = {k: v for k, v in os.environ.items() if k != "SPIKEDIFF_NATIVE"}
    env["ATEN_CPU_CAPABILITY"] = "default"
    done = subprocess.run(
        [sys.executable, "-c", SPIKES], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["baseline"]


def test_builds_into_a_folder(tmp_path, monkeypatch):
    if compiler() is None:
        pytest.skip("no C compiler")
    flags = targets()
    monkeypatch.setattr(
        "spikediff.native.build.targets", lambda: {"baseline": ["-O0", *flags["baseline"]]}
    )
    made = build(tmp_path)
    assert made == [tmp_path / file_name("baseline")]
    assert ctypes.CDLL(str(made[0])).synapse_lanes() > 0


def test_without_a_compiler_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CC", "nonexistent")
    assert build(tmp_path) == []
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert build(tmp_path) == []
    assert capsys.readouterr().out.count("no C compiler") == 2
    assert not list(tmp_path.iterdir())


def test_a_source_that_does_not_compile_is_told(tmp_path, monkeypatch, capsys):
    if compiler() is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr("spikediff.native.build.targets", lambda: {"odd": ["-no-such-option"]})
    assert build(tmp_path) == []
    assert "the odd kernels did not compile" in capsys.readouterr().out
