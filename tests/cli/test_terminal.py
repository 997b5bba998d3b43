"""What people see: one line for a mistake in a terminal of any width, nothing a terminal obeys."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import textwrap

import pytest

from spikediff.cli import main
from spikediff.cli.arguments import Visible

AT_WORK = re.compile(r"spikediff: \w+, \d+ s")  # what a slow machine says
ENVIRONMENT = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}
SCRIPT = textwrap.dedent(
    """
    import fcntl, struct, termios
    from spikediff.cli import COMMANDS, main

    mistakes = {
        "sample": ["x", "--num-images", "abc"],
        "evaluate": ["x", "--device", "tpu"],
        "train": ["sddpm/digits", "--optimizer.lrr", "3"],
        "convert": ["x", "--seed"],
        "vary": [],
        "info": ["a", "b"],
    }
    for columns in (40, 200):
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        for command in COMMANDS:
            first = ["sddpm/digits"] if command == "train" else []
            for arguments in (mistakes.get(command, ["--nope"]), [*first, "--nope", "1"]):
                print(f"@{columns} {command}", flush=True)
                assert main([command, *arguments]) == 2
    """
)


def in_a_terminal(*command):
    """Run a command in a pseudo-terminal; return what appears there."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "COLUMNS"}
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux says so where the other end is closed
            break
        if not part:
            break
        said += part
    assert running.wait() == 0, said.decode()
    return said.decode().replace("\r\n", "\n")


def test_a_mistake_is_one_line_in_a_terminal():
    said = in_a_terminal(sys.executable, "-c", SCRIPT).split("@")[1:]
    assert len(said) > 60
    for part in said:
        _, line, *rest = (x for x in part.split("\n") if not AT_WORK.fullmatch(x))
        assert line.startswith("spikediff: error: "), part
        assert rest == [""], part
        assert line.isprintable(), part
        assert not set(line) & set("│─╭╮╰╯"), part
        assert "Argument helptext" not in line
        assert "For full helptext" not in line


def test_help_comes_to_an_end_at_any_width():
    for columns in ("1", "5", "40", "300"):
        done = subprocess.run(
            [sys.executable, "-m", "spikediff", "sample", "--help"],
            env={**ENVIRONMENT, "COLUMNS": columns},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "--num-images" in done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["sample", "--help"]])
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
        (["sample", "m", "--guidance-scale", "inf"], "--guidance-scale inf"),
        (["sample", "m", "--class-labels", "3", "-1"], "--class-labels -1"),
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
