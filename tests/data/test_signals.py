"""Recordings in time: windows, splits without overlap, files of one's own."""

import numpy as np
import pytest
import torch

from spikediff.data import SIGNALS, SignalDataset, load_images, load_signals
from spikediff.errors import UserError


def counting(samples, channels=1):
    """A recording whose value is its sample's number, so that a window tells where it lies."""
    return (
        torch.arange(float(samples)).expand(channels, -1) + 1000 * torch.arange(channels)[:, None]
    )


@pytest.mark.parametrize("samples", [100, 107])
@pytest.mark.parametrize("length", [1, 4, 10])
def test_the_splits_share_no_sample_and_lose_none(samples, length):
    seen = {}
    for split in ("train", "test"):
        windows = SignalDataset("counting", split, counting(samples), length)
        assert windows.stack().shape == (len(windows), 1, length)
        for window, label in windows:
            assert label == -1
            assert torch.equal(window[0].diff(), torch.ones(length - 1))  # one piece of time
        seen[split] = {int(value) for window, _ in windows for value in window[0]}
    assert not seen["train"] & seen["test"]
    assert seen["train"] | seen["test"] == set(range(samples))
    assert len(seen["test"]) in range(2 * (samples // 10), 2 * (samples // 10) + 3)


def test_every_window_of_a_piece_is_there_once():
    starts = [int(w[0, 0]) for w, _ in SignalDataset("counting", "test", counting(100), 4)]
    assert starts == [*range(30, 37), *range(80, 87)]
    starts = [int(w[0, 0]) for w, _ in SignalDataset("counting", "train", counting(100), 4)]
    assert starts == [*range(27), *range(40, 77), *range(90, 97)]


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_row_of_the_table(name, split):
    windows = load_signals(name, split)
    row = SIGNALS[name]
    assert windows.image_size == row.length
    assert windows[len(windows) - 1][0].shape == (windows.channels, row.length)
    assert windows[0][0].dtype == torch.float32
    assert windows.recording.isfinite().all()
    assert windows.recording.std() > 0
    assert windows.origin
    assert torch.equal(load_signals(name, split)[0][0], windows[0][0])
    with pytest.raises(UserError, match="is a signal, not images"):
        load_images(name)


def test_the_membrane_potential_is_one_in_millivolts():
    recording = load_signals("membrane").recording
    assert recording.shape == (1, 10_000)
    assert -70 < recording.min() < -50 < recording.median() < -30 < 0 < recording.max() < 10
    crossings = ((recording[0, 1:] >= -20) & (recording[0, :-1] < -20)).sum()
    assert 40 < crossings < 70  # action potentials in five seconds


@pytest.mark.parametrize(("shape", "channels"), [((200,), 1), ((3, 200), 3)])
def test_a_file_of_ones_own(shape, channels, tmp_path):
    values = np.random.default_rng(0).normal(size=shape)
    np.save(tmp_path / "mine.npy", values)
    windows = load_signals(str(tmp_path / "mine.npy"), length=16)
    assert windows[0][0].shape == (channels, 16)
    first = torch.from_numpy(np.atleast_2d(values)[:, :16]).float()
    assert torch.equal(windows[0][0], first)
    beside = load_signals("mine.npy", length=16, data_dir=tmp_path)
    assert torch.equal(beside.recording, windows.recording)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((200, 3)), r"holds float64 \[200, 3\]; save real numbers \[S\]"),
        (np.zeros((2, 3, 200)), "channels first"),
        (np.zeros(200, complex), "complex128"),
        (np.full(200, np.nan), "not finite"),
        (np.full(200, 1e300), "not finite"),
        (np.zeros(50), "do not fit into a tenth of the recording, 5 samples"),
        (np.array([{}]), "cannot be read as a .npy file"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_recording(values, words, tmp_path):
    path = tmp_path / "r.npy"
    if values is not None:
        np.save(path, values)
    with pytest.raises(UserError, match=words) as caught:
        load_signals(str(path), length=16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"\x93NUMPY\x03\x00", "EOF: reading array header"),
        (b"\x93NUMPY\x01\x00", "mmap length is greater than file size"),
    ],
)
def test_headers_are_read_before_memory_is_taken(header, words, tmp_path):
    np.save(tmp_path / "r.npy", np.zeros(200))
    content = (tmp_path / "r.npy").read_bytes().replace(b"(200,)", b"(999,)")
    (tmp_path / "r.npy").write_bytes(header + content[len(header) :])
    with pytest.raises(UserError, match=words):
        load_signals(str(tmp_path / "r.npy"), length=16)


def test_an_archive_is_no_recording(tmp_path):
    np.savez(tmp_path / "r.npz", np.zeros(200))
    (tmp_path / "r.npz").rename(tmp_path / "r.npy")
    with pytest.raises(UserError, match="it is an archive"):
        load_signals(str(tmp_path / "r.npy"), length=16)


def test_a_matplotlib_without_the_recording_is_told(monkeypatch, tmp_path):
    gone = str(tmp_path / "membrane.dat")
    monkeypatch.setattr("matplotlib.cbook.get_sample_data", lambda *_, **__: gone)
    with pytest.raises(UserError, match=r"No such file or directory\); install matplotlib from"):
        load_signals("membrane")


def test_names_that_are_none():
    with pytest.raises(UserError, match="did you mean 'membrane'"):
        load_signals("membran")
    with pytest.raises(UserError, match=r"path of a \.npy file"):
        load_signals("digits")
    with pytest.raises(UserError, match="unknown split 'valid'"):
        load_signals("membrane", "valid")
    with pytest.raises(UserError, match="windows of 0 samples"):
        load_signals("membrane", length=0)
