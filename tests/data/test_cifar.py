"""CIFAR-10 in its three forms."""

import io
import pickle
import pickletools
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from spikediff.data import load_images
from spikediff.data.cifar import LOSSLESS, PACKED
from spikediff.files.pickles import load_plain

RNG = np.random.default_rng(0)


def batch(count=4, seed=0):
    data = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": data, b"labels": [n % 10 for n in range(count)], b"batch_label": b"one"}


def write_batches(folder, protocol=2, **names):
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(pickle.dumps(names.get(name, batch(seed=n)), protocol))
    return folder


def python2_pickle(data, labels):
    """Spell a batch as Python 2 with protocol 2 did: byte strings and the old module names."""

    def text(value):
        return b"U" + bytes((len(value),)) + value

    def long_text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value):
        return b"K" + bytes((value,)) if value < 256 else b"M" + struct.pack("<H", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + integer(0) + b"\x85" + text(b"b") + b"\x87R"
        + b"(" + integer(1) + integer(data.shape[0]) + integer(data.shape[1]) + b"\x86"
        + b"cnumpy\ndtype\n" + text(b"u1") + integer(0) + integer(1) + b"\x87R"
        + b"(" + integer(3) + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + integer(0) + b"tb"
        + b"\x89" + long_text(data.tobytes()) + b"tb"
    )  # fmt: skip
    listed = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return (
        b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed
        + text(b"batch_label") + text(b"testing batch 1 of 1") + b"u."
    )  # fmt: skip


# ---- real files


def test_real_lossless_subset(real_data):
    if not (real_data / "cifar10" / LOSSLESS).is_file():
        pytest.skip("no lossless CIFAR-10 subset among the real data")
    train, test = (
        load_images("cifar10-lossless-subset", split, data_dir=real_data)
        for split in ("train", "test")
    )
    assert train.images.shape == (4000, 3, 32, 32)
    assert test.images.shape == (1000, 3, 32, 32)
    assert train.images[0, :, 0, 0].tolist() == [59, 62, 63]  # as in data_batch_1
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert train.labels.bincount().tolist()[:3] == [396, 366, 420]
    means = train.images.double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.005)
    assert train.horizontal_flip


def test_real_packed_jpegs(real_data):
    if not (real_data / "cifar10" / PACKED).is_file():
        pytest.skip("no packed CIFAR-10 among the real data")
    with pytest.warns(UserWarning, match="lossy JPEG copy"):
        packed = load_images("cifar10", "test", data_dir=real_data)
    assert packed.images.shape == (10_000, 3, 32, 32)
    assert packed.labels.bincount().tolist() == [1000] * 10
    assert "lossy" in packed.origin
    if (real_data / "cifar10" / LOSSLESS).is_file():
        exact = load_images("cifar10-lossless-subset", "test", data_dir=real_data)
        assert torch.equal(packed.labels[:1000], exact.labels)
        difference = packed.images[:1000].float() - exact.images.float()
        assert difference.abs().mean().item() == pytest.approx(5.8, abs=0.3)


# ---- Python batches


@pytest.mark.parametrize("protocol", range(6))
def test_python_batches(tmp_path, protocol):
    write_batches(tmp_path / "cifar-10-batches-py", protocol)
    train = load_images("cifar10", "train", data_dir=tmp_path)
    assert train.images.shape == (20, 3, 32, 32)
    assert train.labels[:4].tolist() == [0, 1, 2, 3]
    expected = batch(seed=1)[b"data"].reshape(4, 3, 32, 32)
    assert np.array_equal(train.images[4:8].numpy(), expected)


def test_batches_as_python_2_wrote_them(tmp_path):
    data = RNG.integers(0, 256, (300, 3072), dtype=np.uint8)
    content = python2_pickle(data, [n % 10 for n in range(300)])
    pickletools.dis(content, out=io.StringIO())  # well formed
    assert np.array_equal(pickle.loads(content, encoding="bytes")[b"data"], data)
    (tmp_path / "test_batch").write_bytes(content)  # the folder of batches itself is given
    test = load_images("cifar10", "test", data_dir=tmp_path)
    assert np.array_equal(test.images.numpy().reshape(300, 3072), data)
    assert test.labels[:12].tolist() == [*range(10), 0, 1]


def test_batches_come_before_the_lossy_copy(tmp_path, recwarn):
    write_batches(tmp_path / "cifar10" / "cifar-10-batches-py")
    (tmp_path / PACKED).write_bytes(b"never read")
    assert len(load_images("cifar10", "test", data_dir=tmp_path)) == 4
    assert not recwarn.list


class _Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, protocol, refused):
    trace = tmp_path / "executed"
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    evil = {b"data": _Attack(trace), b"labels": []}
    (folder / "test_batch").write_bytes(pickle.dumps(evil, protocol))
    message = refused(load_images, "cifar10", "test", data_dir=tmp_path)
    assert not trace.exists()
    assert str(folder / "test_batch") in message
    assert "only plain data are loaded" in message


def test_even_numpys_object_arrays_are_refused(tmp_path, refused):
    path = tmp_path / "objects"
    path.write_bytes(pickle.dumps({b"data": np.array([{}], dtype=object)}))
    assert "other than unsigned bytes" in refused(load_plain, path)
    path.write_bytes(pickle.dumps({b"data": np.arange(3.0)}))
    assert "other than unsigned bytes" in refused(load_plain, path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (pickle.dumps(batch())[:-200], "damaged pickle"),
        (b"", "damaged pickle"),
        (b"hello", "damaged pickle"),
        (pickle.dumps([1, 2]), "no data array"),
        (pickle.dumps({b"labels": [1]}), "no data array"),
        (pickle.dumps({**batch(), b"labels": ["cat"] * 4}), "no list of labels"),
        (pickle.dumps({**batch(), b"labels": [1]}), "4 images but 1 labels"),
        (pickle.dumps({**batch(), b"labels": [1, 2, 3, 10]}), "outside the 10 classes"),
    ],
)
def test_damaged_batches(tmp_path, content, word, refused):
    (tmp_path / "test_batch").write_bytes(content)
    message = refused(load_images, "cifar10", "test", data_dir=tmp_path)
    assert word in message
    assert str(tmp_path) in message


def test_missing_batches_are_listed(tmp_path, refused):
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    (folder / "data_batch_3").unlink()
    assert "lacks data_batch_3" in refused(load_images, "cifar10", "train", data_dir=tmp_path)


# ---- the lossless subset


def test_lossless_layout_and_its_damage(tmp_path, refused):
    pixels, labels = RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8), np.array([9, 0, 1])
    np.savez(tmp_path / LOSSLESS, test_images=pixels, test_labels=labels)
    test = load_images("cifar10-lossless-subset", "test", data_dir=tmp_path)
    assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), pixels)
    assert test.labels.tolist() == [9, 0, 1]
    np.savez(tmp_path / LOSSLESS, test_images=pixels, test_labels=labels / 2)
    message = refused(load_images, "cifar10-lossless-subset", "test", data_dir=tmp_path)
    assert f"{LOSSLESS}: labels are float64 [3]; expected integers [N]" in message


# ---- packed JPEGs


def pack(path, sizes=((32, 32), (32, 32)), **changes):
    files = []
    for size in sizes:
        file = io.BytesIO()
        Image.new("RGB", size, (200, 10, 10)).save(file, "JPEG")
        files.append(file.getvalue())
    offsets = np.cumsum([0, *(len(file) for file in files)])
    arrays = {
        "test_data": np.frombuffer(b"".join(files), np.uint8),
        "test_offsets": offsets,
        "test_labels": np.arange(len(files), dtype=np.uint8),
    }
    np.savez(path, **{**arrays, **changes})


@pytest.mark.filterwarnings("ignore:.*lossy")
def test_packed_layout_and_its_damage(tmp_path, refused):
    path = tmp_path / PACKED
    pack(path)
    assert load_images("cifar10", "test", data_dir=tmp_path).labels.tolist() == [0, 1]
    pack(path, sizes=((32, 32), (16, 16)))
    assert "not 32x32" in refused(load_images, "cifar10", "test", data_dir=tmp_path)
    pack(path, test_offsets=np.array([0, 9, 4]))
    assert "offsets" in refused(load_images, "cifar10", "test", data_dir=tmp_path)
    pack(path, test_data=np.zeros(6, np.uint8), test_offsets=np.array([0, 3, 6]))
    assert "test image 0: cannot be decoded" in refused(
        load_images, "cifar10", "test", data_dir=tmp_path
    )
