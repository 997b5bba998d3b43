"""What a reader copies from README.md and docs runs: every command and every block of Python.

A page is one test. Its blocks run in order, in one folder, at the sizes of `SMALLER`; runs that it
names without training them are made by `TRAINED_BY`. What does not run stands in `NOT_RUN`, or has
`<!-- not run: REASON -->` above it; the options of its `spikediff` commands are read all the same.
"""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import matplotlib
import pytest

from spikediff.cli import COMMANDS, main, read_options
from spikediff.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What is not run, and why. Searched for in the command.
NOT_RUN = {
    r"^(make|pip|git|cd|source|docker|python3 -m venv|export|hf)\b": "changes the machine",
    r"^torchrun": "several processes: tests/training",
    r"benchmarks/|-m performance": "hours: tests/benchmarks",
    r"examples/signals": "minutes",
    r"^spikediff web": "a server that waits, of the extra demo",
    r"^(eval|for) ": "a shell's own",
    r"^spikediff (import|\w+ sddpm\b)": "needs the authors' files: tests/cli/test_import.py",
    r"^spikediff push (?!.*--dry-run)": "needs an account",
    r"--metric kernel": "needs more images than fit here: tests/cli/test_guide.py",
    r"--format onnx": "needs the extra onnx: tests/interchange/test_programs.py",
    r"images\.npz|--features fad|fid|resnet": "needs files of others",
    r"my/photos|my\.npy|integer/images|own-images|cat dog": "needs a folder: tests/cli",
    r"evaluate outputs/sample ": "needs samples: tests/cli/test_evaluate.py",
    r"^spikediff sample RUN --num-inference-steps 3 --threshold 0.98,0.99,1": "three steps",
    r"\b(OPTION|\.\.\.)": "not a whole command",
    r"whole|forms/|-int8": "needs the deployment form of the line above, trained",
}
DROPPED = {  # a command that stands in for one with data of others
    r" --data-dir DIR| --feature-weights WEIGHTS| --features fad": "",
    r" --protocol (fsddim|sddpm|spiking-diffusion)": "",
    r"(export .*--num-inference-steps) \d+": r"\1 2",
    r"compare mnist ": "compare digits@steps=1 ",
    r"(?<=[/:-])(mnist|cifar10)(-paper|-classes-start|-classes|-short)?\b": "digits",
    r"(?<=--dataset )\w+": "digits",
    r"--mask-box [\d ]+": "--mask-box 0 4 8 8 ",
    r"\bRUN\b|runs/a\b": "runs/sddpm-digits",
    r"runs/b\b": "runs/fsddim-digits",
}
# Of a command: the value of an option, in place of the page's or the default.
SMALLER = {
    "train": {
        "--training.steps": "2",
        "--training.mixed-precision": "no",
        "--data.batch-size": "8",
        "--sampling.num-images": "2",
        "--sampling.num-inference-steps": "2",
    },
    "sample": {"--num-images": "2", "--num-inference-steps": "2"},
    "vary": {"--num-images": "2", "--num-inference-steps": "2"},
    "inpaint": {"--num-images": "2", "--num-inference-steps": "2"},
    "interpolate": {"--num-images": "2", "--num-inference-steps": "2"},
    "invert": {"--num-inference-steps": "2"},
    "energy": {"--num-images": "2", "--num-inference-steps": "2"},
    "inspect": {"--num-images": "2", "--num-inference-steps": "2"},
    "evaluate": {"--num-samples": "16", "--num-inference-steps": "2"},
    "compare": {"--num-images": "2", "--num-samples": "16", "--num-inference-steps": "2"},
    "guide": {"--num-samples": "16", "--num-inference-steps": "2", "--thresholds": "0.99,1.01"},
    "calibrate": {"--num-images": "8", "--num-timesteps": "3"},
    "convert": {"--quantise-steps": "2", "--num-images": "16"},
    "reconstruct": {"--num-images": "8"},
}
TRAINED_BY = {  # a run that a page names, by its beginning
    "sddpm-digits-nir": "sddpm/digits-nir",
    "sddpm": "sddpm/digits",
    "sdm-digits-converted": "sddpm/digits",
    "fsddim-spiking": "fsddim/digits --model.spiking-stem --model.spiking-resampling",
    "fsddim": "fsddim/digits",
    "spiking-diffusion": "spiking-diffusion/digits",
    "fsvae": "fsvae/digits",
    "integer": "integer/digits",
    "ordinary": "ddpm/digits",
    "ddpm": "ddpm/digits",
    "ann": "ddpm/digits",
    "demo": "integer/digits",
    "photos": "integer/digits",
}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The blocks of a page that are copied: (language, text)."""
    fences = re.finditer(
        r"(<!-- not run: .*-->\n)?^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S
    )
    for reason, language, text in (found.groups() for found in fences):
        kind = "python" if language == "python" else "shell" if language in ("", "bash") else ""
        if kind and not reason and ">>>" not in text:
            yield kind, text


def commands(text: str) -> list[str]:
    """The commands of a block, a line each; transcripts and drawings have none."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [re.sub(r"\s{2,}#.*|\s#\s.*", "", line) for line in joined.splitlines()]
    parts = [part.strip() for line in lines for part in line.split(" && ")]
    return [part for part in parts if re.match(r"[a-z]+[\w.]* ", f"{part} ")]


def all_commands(page: Path) -> list[str]:
    return [c for kind, text in blocks(page) if kind == "shell" for c in commands(text)]


def reason_not_to_run(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


def smaller(command: str) -> list[str]:
    """The arguments of `spikediff` for a command, at a small size."""
    for pattern, stand_in in DROPPED.items():
        command = re.sub(pattern, stand_in, command)
    arguments = shlex.split(command)[1:]
    steps = "--num-inference-steps" if arguments[1:] and arguments[1].startswith("data:") else None
    for option, value in SMALLER.get(arguments[0], {}).items():
        if option == steps:  # real images take none
            continue
        if option in arguments:
            arguments[arguments.index(option) + 1] = value
        else:
            arguments += [option, value]
    again = arguments[0] == "train" and "--resume" not in arguments  # a page may train it twice
    return [*arguments, "--overwrite"] if again else arguments


PYTHON = {  # a block of Python -> at a small size
    r"num_inference_steps=\d+": "num_inference_steps=2",
    r"range\((8|10|16|64)\)": "range(4)",
    r"map_of\(step=3\)": "map_of(step=1)",
    r"windows\[3\]": "windows[1]",
    r'"(cat|dog)"': '"3"',
    r'"runs/sddpm-mnist': '"runs/sddpm-digits',
}
BEFORE = {  # what the text of a page has made before its Python starts
    "docs/energy_model.md": "import spikediff as sd; pipe = sd.load('digits')",
    "docs/inspect.md": "import spikediff as sd; pipe = sd.load('runs/fsddim-digits')",
    "docs/systems/integer.md": "import torch; x = torch.randn(1, 1, 28, 28)",
    "docs/systems/fsddim.md": (
        "import torch; from spikediff import SynapticCurrentUNet; timestep = 10\n"
        "model = SynapticCurrentUNet.from_pretrained('runs/fsddim-digits/pipeline/unet').eval()\n"
        "currents = torch.randn(4, 1, 1, 8, 8)"
    ),
    "docs/systems/fsvae.md": (
        "import torch; images = torch.rand(2, 1, 32, 32); generator = torch.Generator()"
    ),
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return a function that puts a run, trained for two steps, where a page expects it."""
    made: dict[str, Path] = {}

    def put(name: str) -> None:
        if (Path("runs") / name).exists():
            return
        recipe = next(r for start, r in TRAINED_BY.items() if name.startswith(start))
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp("trained") / "run"
            run(f"spikediff train {recipe} --output {made[recipe]}")
        shutil.copytree(made[recipe], Path("runs") / name)

    return put


@pytest.fixture(scope="session")
def classifier_cache(tmp_path_factory):
    """A folder that holds the classifier of the digits once somebody asked for it."""
    return tmp_path_factory.mktemp("classifiers")


def run(command: str) -> None:
    """Run a command of `spikediff`, or an example, in this process."""
    if command.startswith("python examples/"):
        _, script, *arguments = shlex.split(command)
        return __import__(Path(script).stem).main(arguments)
    arguments = smaller(command)
    try:
        code = main(arguments)
    except SystemExit as done:  # help
        code = done.code
    assert code == 0, f"{command}\nas spikediff {shlex.join(arguments)}"
    return None


def run_shell(text: str, trained: Callable[[str], None]) -> None:
    for command in commands(text):
        if reason_not_to_run(command):
            continue
        small = shlex.join(["spikediff", *smaller(command)]) if "spikediff" in command else command
        wanted = re.findall(r"runs/([\w-]+)", re.sub(r"--output \S+", "", small))
        for name in wanted if not small.startswith("spikediff train") or "init" in small else []:
            trained(name)
        shutil.rmtree("outputs", ignore_errors=True)  # the next command may write the same folder
        run(command)


@pytest.mark.slow  # tests/cli/test_tutorial.py runs one page, and the notebooks run beside it
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.relative_to(ROOT).as_posix())
        for page in PAGES
        if list(blocks(page))
    ],
)
def test_runs(page, trained, classifier_cache, tmp_path, monkeypatch):
    """Every command returns 0, and every block of Python runs through."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIKEDIFF_CACHE", str(classifier_cache))
    matplotlib.use("Agg")
    name = page.relative_to(ROOT).as_posix()
    before = BEFORE.get(name, "")
    for run_name in re.findall(r"runs/([\w-]+)", before):
        trained(run_name)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(before, names)
    for kind, text in blocks(page):
        if kind == "shell":
            run_shell(text, trained)
            continue
        for written, small in PYTHON.items():
            text = re.sub(written, small, text)
        for run_name in re.findall(r'"runs/([\w-]+)', text):
            trained(run_name)
        exec(compile(text, name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_exist(page):
    """Every command reads its options as they are written, whether it can run here or not."""
    for command in all_commands(page):
        if not command.startswith("spikediff ") or re.search(r"OPTION|\.\.\.|\$", command):
            continue
        name, *arguments = shlex.split(command)[1:]
        assert name in {*COMMANDS, "help", "--version"}, command
        if name in ("help", "--version", "info", "completion"):
            continue
        said = refusal(name, *arguments)
        assert not said or "no such folder" in said, command


@cache  # pages repeat commands
def refusal(name: str, *arguments: str) -> str:
    """What a command says of options that it does not read."""
    try:
        read_options(name, list(arguments))
    except UserError as error:
        return str(error)
    return ""
