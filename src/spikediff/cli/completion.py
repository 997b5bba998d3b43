"""`spikediff completion SHELL`: print a completion script for a shell."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from spikediff.cli import COMMANDS, module_of, options_class
from spikediff.cli.arguments import Option, choices_of, options_of
from spikediff.pretrained import PRETRAINED, shipped_recipes


@dataclass(frozen=True)
class CompletionOptions:
    """Print a completion script.

    Bash and zsh: add `eval "$(spikediff completion bash)"` (or `zsh`) to ~/.bashrc or ~/.zshrc.
    Fish: `spikediff completion fish > ~/.config/fish/completions/spikediff.fish`.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """The shell to print the script for."""


def run(options: CompletionOptions) -> None:
    print(_SCRIPTS[options.shell](completions()))


@dataclass(frozen=True)
class Completion:
    """What may follow a command."""

    names: tuple[str, ...]  # of its first argument, besides a path
    options: dict[str, tuple[str, ...] | None]  # the values; () means any, None no value


def completions() -> dict[str, Completion]:
    """Return what may follow each command.

    Example:
        >>> completions()["sample"].options["--device"][:2]
        ('auto', 'cpu')
    """
    known = {command: _completion(command) for command in COMMANDS}
    return known | {"help": Completion(tuple(COMMANDS), {})}


def _completion(command: str) -> Completion:
    options = options_class(command)
    if command == "train":  # the sections of SDDPM's network stand for those of all
        options = module_of(command).options_of(type(options().recipe))
    names = tuple(shipped_recipes()) if command == "train" else ()
    found: dict[str, tuple[str, ...] | None] = {"--help": None}
    for option in options_of(options):
        if tyro.conf.Positional not in option.marks:
            found |= _flags(option)
        elif choices_of(option.type):
            names = choices_of(option.type)
        elif option.path[-1] in ("source", "sources"):
            names = tuple(PRETRAINED)
    return Completion(names, found)


def _flags(option: Option) -> dict[str, tuple[str, ...] | None]:
    """Return an option as it is typed, with its aliases; a switch of two positions has two."""
    names = [f"--{option.flag}"]
    for mark in option.marks:
        names += getattr(mark, "aliases", None) or ()
    if option.type is not bool:
        return dict.fromkeys(names, choices_of(option.type))
    if tyro.conf.FlagCreatePairsOff not in option.marks:
        prefix, dot, last = option.flag.rpartition(".")
        names.append(f"--{prefix}{dot}no-{last}")
    return dict.fromkeys(names)


def _cases(known: dict[str, Completion], first: str, value: str) -> tuple[list[str], list[str]]:
    """Return the lines of a shell's two `case`: of commands, and of options with known values."""
    commands, values = [], []
    for command, completion in known.items():
        names, options = " ".join(completion.names), " ".join(completion.options)
        commands.append(f"    {command}) {first.format(names, options)} ;;")
        values += [
            f'    "{command} {option}") {value.format(" ".join(choices))} ;;'
            for option, choices in completion.options.items()
            if choices
        ]
    return commands, values


def _bash(known: dict[str, Completion]) -> str:
    first, values = _cases(known, 'names="{}" options="{}"', 'words="{}"')
    return "\n".join(
        [
            "# Completion of spikediff for bash.",
            "_spikediff() {",
            "  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
            '  local words="" names="" options=""',
            '  case "${COMP_WORDS[1]}" in',
            *first,
            "  esac",
            '  case "${COMP_WORDS[1]} $before" in',
            *values,
            "    *) if [[ $current == -* ]]; then words=$options",
            "       elif ((COMP_CWORD == 2)); then words=$names; fi ;;",
            "  esac",
            f'  ((COMP_CWORD == 1)) && words="{" ".join(known)} --help --version"',
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _spikediff spikediff",
        ]
    )


def _zsh(known: dict[str, Completion]) -> str:
    first, values = _cases(known, "names=({}) options=({})", "compadd -- {}")
    return "\n".join(
        [
            "#compdef spikediff",
            "# Completion of spikediff for zsh.",
            "_spikediff() {",
            "  local -a names options",
            "  if ((CURRENT == 2)); then",
            f"    compadd -- {' '.join(known)} --help --version",
            "    return",
            "  fi",
            '  case "$words[2]" in',
            *first,
            "  esac",
            '  case "$words[2] $words[CURRENT-1]" in',
            *values,
            '    *) if [[ "$words[CURRENT]" == -* ]]; then compadd -- $options',
            "       else ((CURRENT == 3)) && compadd -- $names; _files; fi ;;",
            "  esac",
            "}",
            'if [[ "$funcstack[1]" == _spikediff ]]; then _spikediff "$@"',
            "else compdef _spikediff spikediff; fi",
        ]
    )


def _fish(known: dict[str, Completion]) -> str:
    lines = ["# Completion of spikediff for fish."]
    for command, completion in known.items():
        what = COMMANDS.get(command, "show the options of a command").replace("'", r"\'")
        lines.append(f"complete -c spikediff -n __fish_use_subcommand -f -a {command} -d '{what}'")
        here = f"complete -c spikediff -n '__fish_seen_subcommand_from {command}'"
        if completion.names:
            lines.append(f"{here} -a '{' '.join(completion.names)}'")
        for option, choices in completion.options.items():
            value = f" -x -a '{' '.join(choices)}'" if choices else " -r" * (choices is not None)
            lines.append(f"{here} -l {option.removeprefix('--')}{value}")
    return "\n".join(lines)


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
