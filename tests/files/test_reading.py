"""Reading what others wrote: regular files of bounded size and depth, and messages of one line."""

import json
import os
import pickle
import time
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.energy import load_costs
from spikediff.errors import UserError, one_line, shown, visible
from spikediff.evaluation.protocol import load_protocol
from spikediff.files.pickles import load_plain
from spikediff.files.reading import read_json, read_regular, read_text
from spikediff.files.weights import read_foreign_weights
from spikediff.files.yaml import read_yaml
from spikediff.training.recipe import check_recipe, load_recipe, recipe_from

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


@settings(max_examples=30)
@given(st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=20))
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


@pytest.mark.parametrize("text", SPOILT_YAML.values(), ids=SPOILT_YAML.keys())
@pytest.mark.parametrize("read", [load_recipe, load_protocol, load_costs])
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


@given(st.text())
@settings(max_examples=300)
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
