"""What people see: one line for a mistake in a terminal of any width, nothing a terminal obeys."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from safetensors import SafetensorError

from spikediff import __version__
from spikediff.cli import COMMANDS, main
from spikediff.cli.arguments import Visible, parse
from spikediff.cli.inpaint import InpaintOptions
from spikediff.cli.sample import SampleOptions
from spikediff.errors import UserError
from spikediff.pretrained import PRETRAINED
from spikediff.training.trained import load_trained

ENVIRONMENT = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}
MISTAKES = {  # one of every kind
    "sample": ["x", "--num-images", "abc"],
    "evaluate": ["x", "--device", "tpu"],
    "train": ["sddpm/digits", "--optimizer.lrr", "3"],
    "convert": ["x", "--seed"],
    "vary": [],
    "info": ["a", "b"],
}


@pytest.fixture
def in_a_terminal(monkeypatch):
    """Return what runs a command with a pseudo-terminal in the place of stdout and stderr."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()

    def run(arguments, columns):
        """Run a command in a terminal of that width; return its code and what appears."""
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        with monkeypatch.context() as patch:
            for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
                patch.setattr(sys, name, terminal)
            code, said = main(arguments), b""
        terminal.write("\0")
        terminal.flush()
        while not said.endswith(b"\0"):
            said += os.read(ours, 65_536)
        return code, said[:-1].decode().replace("\r\n", "\n")

    with open(theirs, "w", encoding="utf-8") as terminal:
        yield run
    os.close(ours)


@pytest.mark.parametrize("columns", [40, 200])
def test_a_mistake_is_one_line_in_a_terminal(columns, in_a_terminal):
    unknown = [
        [command, *(["sddpm/digits"] if command == "train" else []), "--nope", "1"]
        for command in (COMMANDS if columns == 40 else ["sample", "train"])
    ]
    of_every_kind = [[command, *arguments] for command, arguments in MISTAKES.items()]
    for arguments in of_every_kind + unknown:
        code, said = in_a_terminal(arguments, columns)
        line, *rest = said.split("\n")
        assert code == 2, arguments
        assert line.startswith("spikediff: error: "), said
        assert rest == [""], said
        assert line.isprintable(), said
        assert not set(line) & set("│─╭╮╰╯"), said
        assert "Argument helptext" not in line
        assert "For full helptext" not in line


@pytest.mark.parametrize("columns", ["1", "5", "40", "300"])
def test_help_comes_to_an_end_at_any_width(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit, match="0"):
        main(["sample", "--help"])
    assert "--num-images" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [pytest.param(["--help"], marks=pytest.mark.slow), ["sample", "--help"]]
)
def test_a_full_or_closed_stdout_is_no_traceback(arguments):
    command = [sys.executable, "-m", "spikediff", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False
        )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "No space left on device" in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_names_are_shown_and_not_obeyed(capsys):
    assert main(["info", "a\x1b]0;x\x07\nb"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said[:-1].isprintable()


def test_what_is_printed_has_no_control_characters():
    plain = io.StringIO()
    Visible(plain).write("a\x1b[2J\tb\n\x9b31m")
    assert plain.getvalue() == "a\\x1b[2J\tb\n\\x9b31m"
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Visible(narrow).write("1 ± 2 \udcff")
    narrow.seek(0)
    assert narrow.read() == "1 \\xb1 2 \\udcff"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sample", "m", "--seed", "-1"], "--seed -1"),
        (["sample", "m", "--seed", str(2**64)], "--seed 18446744073709551616"),
        (["sample", "m", "--batch-size", "1000000"], "--batch-size 1000000"),
        (["sample", "m", "--num-images", "0"], "--num-images 0"),
        (["sample", "m", "--eta", "3"], "--eta 3"),
        (["sample", "m", "--eta", "nan"], "--eta nan"),
        (["sample", "m", "--guidance-scale", "inf"], "--guidance-scale inf must be a finite"),
        (["sample", "m", "--guidance-scale", "nan"], "--guidance-scale nan must be a finite"),
        (["sample", "m", "--class-labels", "3", "-1"], "--class-labels -1"),
        (["sample", "m", "--class-labels"], "--class-labels: has no value"),
        (["sample", "m", "--class-label", "--eta", "1"], "--class-labels: has no value"),
        (["interpolate", "m", "--seeds", "3", "-1"], "--seeds -1"),
        (["vary", "m", "--strength", "0"], "--strength 0"),
        (["calibrate", "m", "--clip-last-noise", "-3"], "--clip-last-noise -3"),
        (["guide", "m", "--budget-seconds", "-1"], "--budget-seconds -1"),
        (["reconstruct", "m", "--num-images", "0"], "--num-images 0"),
        (["convert", "m", "--bits", "9"], "--bits 9"),
        (["train", "sddpm/digits", "--threads", "-3"], "--threads -3"),
        (["train", "sddpm/digits", "--data.batch-size", "1000000"], "data.batch_size = 1000000"),
        (["train", "sddpm/digits", "--optimizer.lr", "inf"], "optimizer.lr = inf"),
        (
            ["push", "digits", "me/x", "--license", "foo", "--dry-run", "--output", "o"],
            "--license foo",
        ),
        (["demo", "--steps", "0"], "--steps 0"),
        (["interpolate", "digits", "--class-labels", "1", "2"], "give a single class"),
        (
            ["inpaint", "digits", "--image", __file__, "--mask", "nothere"],
            "--mask nothere: no such",
        ),
    ],
)
def test_options_that_make_no_sense(arguments, word, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert word in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["sample", "info", "evaluate", "energy", "guide"])
def test_output_files_are_checked_before_the_work(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.json", tmp_path):
        assert main([command, "no model", "--json", str(path)]) == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert "no model" not in said


def test_json_goes_into_a_folder_that_is_made(tmp_path):
    assert main(["info", "--json", str(tmp_path / "a" / "b.json")]) == 0
    assert "machine" in json.loads((tmp_path / "a" / "b.json").read_text())


def test_help_is_in_words_and_fits_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    usages = {}
    for command in COMMANDS:
        first = ["sddpm/digits"] if command == "train" else []
        with pytest.raises(SystemExit):
            main([command, *first, "--help"])
        said = capsys.readouterr().out
        usages[command] = " ".join(said.partition("\n\n")[0].split())
        assert max(map(len, said.splitlines())) <= 80, said
        for foreign in ("{None}", "{None,", "STR", "{INT", "INT ...]", "PATH ...]"):
            assert foreign not in said, (command, foreign)
    assert usages["push"] == "usage: spikediff push [-h] [OPTIONS] SOURCE USER/NAME"
    assert usages["compare"] == "usage: spikediff compare [-h] [OPTIONS] SOURCE ..."
    assert usages["info"] == "usage: spikediff info [-h] [SOURCE] [--json FILE]"


@pytest.mark.parametrize("command", ["sample", "info", "compare"])
def test_help_names_the_models_that_ship(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = "".join(capsys.readouterr().out.replace("│", "").split())
    assert f"({','.join(PRETRAINED)})" in said


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("mnits", "mnits: no such folder or shipped model; did you mean 'mnist'?"),
        ("absent", f"choose from {', '.join(PRETRAINED)}, or give a run folder"),
    ],
)
def test_a_model_that_is_not_there_names_those_that_ship(name, advice, capsys):
    with pytest.raises(UserError, match=re.escape(advice)):
        load_trained(Path(name))
    for command in ("sample", "info", "evaluate", "compare"):
        assert main([command, name]) == 2
        assert advice in capsys.readouterr().err


def test_none_can_still_be_typed():
    read = parse(SampleOptions, ["digits", "--num-images", "None"], "x", None)
    assert read.num_images is None
    box = ["--mask-box", "0", "1", "2", "3"]
    read = parse(InpaintOptions, ["digits", "--data-index", "0", *box], "x", None)
    assert read.mask_box == (0, 1, 2, 3)


def failing(error):
    def run(_options):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "not enough memory (MemoryError); use a smaller --batch-size or"),
        (RuntimeError("DefaultCPUAllocator: no"), "not enough memory (DefaultCPUAllocator: no);"),
        (SafetensorError("I/O error: No space left on device"), "I/O error: No space left on"),
        (OSError(28, "No space left on device", "grid.png"), "grid.png: No space left on device"),
    ],
)
def test_a_machine_that_has_no_more_is_told_in_one_line(error, line, monkeypatch, capsys):
    monkeypatch.setattr("spikediff.cli.info.run", failing(error))
    assert main(["info"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"spikediff: error: {line}")
    assert said.count("\n") == 1


def test_a_reader_that_has_left_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr("spikediff.cli.info.run", failing(BrokenPipeError()))
    assert main(["info"]) == 1
    assert capsys.readouterr().err == ""


def test_a_fault_of_the_library_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("spikediff.cli.info.run", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"spikediff {__version__}\n"
