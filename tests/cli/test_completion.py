"""`spikediff completion` and `spikediff help`: what is offered is what the commands have."""

import re
import shutil
import subprocess

import pytest

from spikediff.cli import COMMANDS, main
from spikediff.cli.completion import completions
from spikediff.pretrained import PRETRAINED, shipped_recipes


def script(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def ask(shell, program, file):
    """Run a program of a shell that has read the script; return the words that it prints."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = [shell, "--no-config"] if shell == "fish" else [shell]
    done = subprocess.run(
        [*command, "-c", program, shell, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_those_of_the_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["help", command])
    rows = re.findall(r"^(?:│ |  )(--?\w.*)$", capsys.readouterr().out, re.M)
    listed = {o for row in rows for o in re.findall(r"(?:^|, )(--[\w.-]+)", row.split("  ")[0])}
    assert set(completions()[command].options) == listed


def test_bash_completes(tmp_path, capsys):
    file = tmp_path / "completion"
    file.write_text(script("bash", capsys))
    program = """
        source "$1"
        try() { COMP_WORDS=(spikediff "$@"); COMP_CWORD=$#; _spikediff; echo "${COMPREPLY[*]}"; }
        try ""; try sample --num-im; try sample x --device ""; try train sddpm/dig; try sample ""
        try help en; try sample --seed ""; try compare fa
    """
    first, option, device, recipe, source, help_, seed, compared = ask("bash", program, file).split(
        "\n"
    )[:-1]
    assert {*COMMANDS, "help"} <= set(first.split())
    assert option == "--num-images"
    assert device.split()[:2] == ["auto", "cpu"]
    assert set(recipe.split()) == {n for n in shipped_recipes() if n.startswith("sddpm/dig")}
    assert set(source.split()) == set(PRETRAINED)
    assert help_ == "energy"
    assert seed == ""
    assert compared == "fashion-mnist fashion-mnist-float"


def test_zsh_completes(tmp_path, capsys):
    file = tmp_path / "completion"
    file.write_text(script("zsh", capsys))
    program = """
        compdef() { :; }; compadd() { shift; print -r -- "$@"; }; _files() { print files; }
        source "$1"
        try() { words=(spikediff "$@"); CURRENT=$#words; _spikediff; }
        try ""; try sample x --device ""; try sample -; try sample ""
    """
    first, device, options, sources, files = ask("zsh", program, file).split("\n")[:-1]
    assert {*COMMANDS, "help"} <= set(first.split())
    assert device.split()[:2] == ["auto", "cpu"]
    assert set(options.split()) == set(completions()["sample"].options)
    assert set(sources.split()) == set(PRETRAINED)
    assert files == "files"


def test_fish_completes(tmp_path, capsys):
    file = tmp_path / "completion"
    file.write_text(script("fish", capsys))
    program = """
        source $argv[2]
        for line in "spikediff " "spikediff sample --num-im" "spikediff sample x --device c" \
                "spikediff train sddpm/digits-c"
            echo (complete -C $line | cut -f 1)
        end
    """
    first, option, device, recipe = ask("fish", program, file).split("\n")[:-1]
    assert {*COMMANDS, "help"} <= set(first.split())
    assert option == "--num-images"
    assert device.split() == ["cpu", "cuda"]
    assert "sddpm/digits-classes" in recipe.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_names_every_command(shell, capsys):
    text = script(shell, capsys)
    assert all(re.search(rf"\b{command}\b", text) for command in (*COMMANDS, "help"))


def test_help_is_that_of_the_option(capsys):
    assert main(["help"]) == main(["--help"]) == 0
    short, long = capsys.readouterr().out.split("usage: ")[1:]
    assert short == long
    assert main(["help", "nothing"]) == 2
    assert "unknown command 'nothing'" in capsys.readouterr().err
