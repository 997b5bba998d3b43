"""Reading what others wrote: regular files of bounded size and depth, and messages of one line."""

import json
import os
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.energy import load_costs
from spikediff.errors import UserError, one_line, shown, visible
from spikediff.evaluation.protocol import load_protocol
from spikediff.files.pickles import load_plain
from spikediff.files.reading import read_json, read_regular, read_text
from spikediff.files.weights import find_state_dict, read_foreign_weights
from spikediff.files.yaml import read_yaml
from spikediff.training.recipe import check_recipe, load_recipe, recipe_from

# Letters that a message may not show as they are, and some of other scripts.
LETTERS = [*map(chr, range(256)), *"\u200b\u2028\u2029\u202e\u6f22\U0001d11e"]
READERS = [read_regular, read_json, read_text, read_foreign_weights, load_recipe, load_plain]


def make_folder(path):
    path.mkdir()


def make_device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, make_folder, make_device])
@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_read(tmp_path, read, make):
    make(tmp_path / "file")
    with pytest.raises(UserError, match="is not a regular file"):
        read(tmp_path / "file")


def test_what_the_system_cannot_read_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(embedded null byte\)"):
        read_regular(tmp_path / "a\0b")
    memory = Path("/proc/self/mem")  # a regular file whose first byte cannot be read
    if memory.exists():
        with pytest.raises(UserError, match=r"mem: cannot be read \(Input/output error\)"):
            read_regular(memory)


def test_a_limit_of_size(tmp_path):
    (tmp_path / "file").write_bytes(bytes(11))
    assert len(read_regular(tmp_path / "file", most=11)) == 11
    with pytest.raises(UserError, match="has 11 bytes, more than the 10"):
        read_regular(tmp_path / "file", most=10)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 80 + "1" + "}" * 80, "9" * 5000],
)
def test_json_that_is_none_or_too_deep(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError, match=r"file\.json"):
        read_json(tmp_path / "file.json")


def test_text_is_utf_8_and_json_has_a_limit_of_values(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    path.write_bytes(b"[\xff]")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_json(path)
    monkeypatch.setattr("spikediff.files.reading.MOST_NODES", 10)
    path.write_text('[[1, 2, 3, 4], {"a": 5, "b": 6}]')
    assert read_json(path)[1] == {"a": 5, "b": 6}
    path.write_text('[[1, 2, 3, 4], {"a": 5, "b": 6}, 7]')
    with pytest.raises(UserError, match="holds more than 10 values"):
        read_json(path)


@settings(max_examples=30)
@given(st.recursive(st.none() | st.booleans() | st.text(LETTERS), st.lists, max_leaves=20))
def test_other_json_is_read_as_it_is(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "content.json"
    path.write_text(json.dumps(content))
    assert read_json(path) == content


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
# A chain of aliases, 8 times 60 lists deep, that stands in a key: keys are built first.
CHAIN = f"a0: &a0 {'[' * 60}{']' * 60}\n" + "".join(
    f"a{n}: &a{n} {'[' * 60}*a{n - 1}{']' * 60}\n" for n in range(1, 8)
)
SPOILT_YAML = {
    "a date": "seed: 2001-99-99",
    "a time": "seed: 2001-01-01T25:61:61Z",
    "an int": "seed: !!int x",
    "a float": "optimizer: {lr: !!float x}",
    "a bool": "data: {hold_out: !!bool x}",
    "a timestamp": "name: !!timestamp x",
    "hexadecimal": "seed: 0x_",
    "digits": f"seed: {'9' * 5000}",
    "a large seed": f"seed: 0x{'f' * 30}",
    "brackets": "[" * 20_000,
    "lists": "[" * 900 + "]" * 900,
    "aliases": BOMB,
    "merges": MERGES,
    "a chain of aliases": f"{CHAIN}? [*a7]\n: 1",
    "itself": "&a [*a]",
    "a zero byte": 'name: "a\\0b"',
    "an escape": 'name: "\\e[2J"',
    "infinity": "optimizer: {lr: .inf}",
    "not a number": "model: {neuron_options: {tau: .nan}}",
    "twice": "seed: 1\nname: x\nseed: 2",
    "too few": "optimizer: {betas: [0.9]}",
    "a number for a section": "optimizer: 0",
    "nothing": "",
    "a list as a key": "? [1, 2]\n: 3",
}
DEEP = ("brackets", "lists")


@pytest.mark.parametrize(
    ("read", "text"),
    [
        pytest.param(read, text, id=f"{read.__name__}-{name}", marks=slow)
        for read in (load_recipe, load_protocol, load_costs)
        for name, text in SPOILT_YAML.items()
        # All read YAML with `read_yaml`, and brackets end there.
        for slow in [pytest.mark.slow if name in DEEP and read is not load_recipe else ()]
    ],
)
def test_spoilt_yaml_is_one_short_line_at_once(tmp_path, read, text):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        read(str(path))
    assert time.process_time() - started < 2
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 600


def test_no_is_a_word_and_keys_stand_once(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("training: {mixed_precision: no}")
    assert load_recipe(path).training.mixed_precision == "no"
    path.write_text("data: &d {dataset: mnist}\nname: x\ndata: *d")
    with pytest.raises(UserError, match="line 3: the key 'data' appears twice"):
        load_recipe(path)


def test_a_key_may_replace_a_merged_one(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")
    assert read_yaml(path)["b"] == {"x": 1, "y": 3}


def test_what_was_read_belongs_to_its_reader(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("a: [1]")
    read_yaml(path)["a"].append(2)
    assert read_yaml(path) == {"a": [1]}


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", "..", "a\0b"])
def test_a_name_is_that_of_a_folder(name):
    with pytest.raises(UserError, match="name"):
        check_recipe(recipe_from({"name": name}, "here"))


def nested_tuple(levels):
    """Return a pickle {t: 1} of a tuple that holds twice the one that holds twice ..."""
    return b"\x80\x02})" + b"2\x86" * levels + b"K\x01s."


@pytest.mark.parametrize("zipped", [True, False])
def test_a_key_of_tuples_does_not_hang(tmp_path, zipped):
    path = tmp_path / "weights.pt"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", nested_tuple(60))
            archive.writestr("archive/version", "3\n")
    else:
        path.write_bytes(nested_tuple(60))
    started = time.process_time()
    for read in (read_foreign_weights, load_plain):
        with pytest.raises(UserError) as caught:
            read(path)
        assert len(str(caught.value)) < 600
    assert time.process_time() - started < 2


def test_a_memo_index_asks_for_no_memory(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    with pytest.raises(UserError, match="memo index 2147483647"):
        load_plain(path)


class Array:
    """An array with a state of its own in the pickle."""

    def __init__(self, shape, content, fortran=False):
        self.state = (1, shape, np.dtype("u1"), fortran, content)

    def __reduce__(self):
        rebuild, empty, _ = np.zeros(0, np.uint8).__reduce__()
        return rebuild, empty, self.state


def nested(levels):
    inner = ()
    for _ in range(levels - 1):
        inner = (inner,)
    return inner


def filled(opcode, levels):
    """Return a pickle of containers that are filled with one another, the outermost last."""
    empty, fill = {"APPEND": (b"]", b"a"), "SETITEM": (b"}K\x01", b"s")}[opcode]
    return b"\x80\x02" + empty * (levels - 1) + b"]" + fill * (levels - 1) + b"."


@pytest.mark.parametrize("opcode", ["APPEND", "SETITEM"])
def test_containers_lie_as_deep_as_what_they_are_filled_with(tmp_path, opcode):
    (tmp_path / "batch").write_bytes(filled(opcode, 64))
    assert load_plain(tmp_path / "batch")
    (tmp_path / "batch").write_bytes(filled(opcode, 65))
    with pytest.raises(UserError, match="more than 64 levels deep"):
        load_plain(tmp_path / "batch")


NOT_PLAIN = {
    "an array in Fortran order": pickle.dumps({"a": Array((2,), b"ab", fortran=True)}),
    "an array without content": pickle.dumps({"a": Array((2,), [1, 2])}),
    "an array of 2 bytes declared as [5]": pickle.dumps({"a": Array((5,), b"ab")}),
    "bytes spelled in utf-8": b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\5\0\0\0utf-8\x86R.",
    "a mark in the place of a value": b"](a.",
    "values lie more than 64 levels deep": pickle.dumps(nested(66)),
}


@pytest.mark.parametrize("words", NOT_PLAIN)
def test_a_pickle_that_is_not_of_plain_data_is_one_line(tmp_path, words):
    (tmp_path / "batch").write_bytes(NOT_PLAIN[words])
    with pytest.raises(UserError) as caught:
        load_plain(tmp_path / "batch")
    assert f"batch: damaged pickle ({words})" in str(caught.value)


def test_plain_data_may_contain_themselves(tmp_path):
    inner = []
    whole = (inner, 1, 2, 3)
    inner.append(whole)
    (tmp_path / "batch").write_bytes(pickle.dumps({"a": whole}))
    read = load_plain(tmp_path / "batch")["a"]
    assert read[0][0] is read
    assert read[1:] == (1, 2, 3)


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        (zipfile.ZIP_DEFLATED, "torch.save compresses none"),
        (zipfile.ZIP_STORED, "a pickle of 30 bytes"),
    ],
)
def test_a_zip_that_unpacks_to_more_than_it_holds_is_refused(
    tmp_path, monkeypatch, compression, words
):
    monkeypatch.setattr("spikediff.files.pickles._MOST_TORCH_BYTES", 29)
    with zipfile.ZipFile(tmp_path / "weights.pt", "w", compression) as archive:
        archive.writestr("archive/data.pkl", bytes(30))
    with pytest.raises(UserError, match=words):
        read_foreign_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("content", "keys"), [({"step": 3, "lr": 0.1}, "'step', 'lr'"), ({}, "none")]
)
def test_a_checkpoint_without_tensors_names_its_keys(content, keys):
    with pytest.raises(UserError, match=f"here: holds no tensors; its keys are {keys}"):
        find_state_dict(content, ("model",), "here")


@pytest.mark.parametrize("legacy", [True, False])
def test_files_of_torch_are_still_read(tmp_path, legacy):
    state = torch.nn.LSTM(3, 4, 2).state_dict()
    path = tmp_path / "weights.pt"
    torch.save({"step": 3, "model": state}, path, _use_new_zipfile_serialization=not legacy)
    content = read_foreign_weights(path)
    assert all(torch.equal(content["model"][key], state[key]) for key in state)


def test_nobody_is_advised_to_run_the_code_of_a_file(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, ("true",)

    (tmp_path / "picture.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    torch.save({"a": Hostile()}, tmp_path / "hostile.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": Hostile()}))
    for path in tmp_path.glob("*.pt"):
        with pytest.raises(UserError) as caught:
            read_foreign_weights(path)
        assert "weights_only" not in str(caught.value)
        assert "()" not in str(caught.value)


@given(st.text(LETTERS))
@settings(max_examples=100)
def test_messages_are_one_printable_line(text):
    message = str(UserError(text))
    assert len(message.splitlines()) <= 1
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in message)
    assert all(ord(c) >= 32 or c in "\n\t" for c in visible(text))


def test_long_messages_keep_both_ends():
    assert len(str(UserError("a" * 100_000))) == 600
    assert one_line("start " + "x" * 9999 + " end").startswith("start x")
    assert one_line("start " + "x" * 9999 + " end").endswith("x end")
    deep = [[1] * 9] * 9
    for _ in range(20):
        deep = [deep] * 9
    assert len(shown(deep)) <= 120
