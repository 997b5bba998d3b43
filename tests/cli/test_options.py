"""An option of several commands has one name, one type, one text, and one default unless listed."""

from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from spikediff.cli import COMMANDS, options_class
from spikediff.cli.arguments import Range, build, options_of
from spikediff.cli.inpaint import InpaintOptions
from spikediff.cli.options import Flat, Report, Sampling
from spikediff.errors import UserError
from spikediff.pretrained import pretrained_folder

# Options that mean another thing in these commands, and have a text of their own.
OTHERWISE = {
    "output": {"export", "push", "train", "demo"},
    "execution": {"deploy"},
    "seed": {"calibrate", "convert"},
    "seeds": {"guide", "interpolate"},
    "features": {"guide"},
    "layers": {"guide"},
    "num_images": {"reconstruct", "sample"},
    "num_samples": {"guide"},
    "batch_size": {"export"},
    "source": {"info"},
    "spiking_steps": {"convert", "import"},
}
GROUPS_OF_TRAINING = {"train"}


def shared():
    """Name -> {command: (type, text)} of options that have a shared text or stand in several."""
    found = defaultdict(dict)
    for command in set(COMMANDS) - GROUPS_OF_TRAINING:
        kind = options_class(command)
        for option in options_of(kind):
            text = next((m.help for m in option.marks if getattr(m, "help", None)), None)
            text = text or ("of a group" if len(option.path) > 1 else f"of {command} alone")
            if command not in OTHERWISE.get(option.path[-1], ()):
                found[option.path[-1]][command] = (option.type, text)
    return {name: commands for name, commands in found.items() if len(commands) > 1}


def test_one_type_and_one_text_for_an_option_of_several_commands():
    several = shared()
    assert {"device", "scheduler", "json", "overwrite", "threshold", "batch_size"} <= set(several)
    differ = {name: found for name, found in several.items() if len(set(found.values())) > 1}
    assert differ == {}


@dataclass(frozen=True)
class Small:
    sampling: Flat[Sampling] = Sampling(batch_size=3)
    report: Flat[Report] = Report()


def test_options_are_built_of_flat_names(tmp_path):
    built = build(Small, {"threshold": "0.9", "json": str(tmp_path / "x.json")})
    assert built.sampling == Sampling(batch_size=3, threshold="0.9")
    assert built.report.json == tmp_path / "x.json"
    built = build(InpaintOptions, {"source": "digits", "data_index": 4, "class_labels": (3,)})
    assert (built.model.source, built.picture.data_index) == (pretrained_folder("digits"), 4)
    assert built.sampling.one_class(SimpleNamespace(components={})) == {"class_labels": 3}
    with pytest.raises(UserError, match="did you mean 'batch_size'"):
        build(Small, {"batch_sizes": 3})
    with pytest.raises(UserError, match="--batch-size 0 must be at least 1"):
        build(Small, {"batch_size": 0})
    with pytest.raises(UserError, match="is a folder"):
        build(Small, {"json": tmp_path})
    with pytest.raises(UserError, match="give either --image FILE or --data-index N"):
        build(InpaintOptions, {"source": "digits"})


def test_labels_follow_the_seeds_and_batches_do_not_matter():
    bars = []

    class Pipe:
        components: dict = {}  # noqa: RUF012

        def set_progress_bar_config(self, **options):
            bars.append(options["desc"])

        def __call__(self, seeds, num_inference_steps, class_labels=None):
            return list(zip(seeds, class_labels, strict=True))

    pipe = Pipe()
    for batch_size in (1, 2, 5):
        sampling = Sampling(batch_size=batch_size, class_labels=(7, 8, 9))
        made = [pair for part in sampling.generate(pipe, range(4, 9), pipe) for pair in part]
        assert made == [(4, 7), (5, 8), (6, 9), (7, 7), (8, 8)]
    assert bars[-1] == "images 1 to 5 of 5"
    assert bars[5:8] == ["images 1 to 2 of 5", "images 3 to 4 of 5", "images 5 to 5 of 5"]
    with pytest.raises(UserError, match=r"--guidance-scale 2.0: Pipe has no such option"):
        list(Sampling(guidance_scale=2.0).generate(pipe, range(1), pipe))


@pytest.mark.parametrize(("number", "word"), [(0.0, "positive"), (1.5, "at most 1")])
def test_a_range(number, word):
    with pytest.raises(UserError, match=word):
        Range(1e-12, 1).check("--x", number)
