"""`spikediff push RUN USER/NAME`: a model's repository on the Hugging Face Hub."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from spikediff.cli.options import Flat, Overwrite, Report, SourceFolder, Steps
from spikediff.cli.outputs import check_new_folder, new_folder
from spikediff.errors import UserError, kind_of


@dataclass(frozen=True)
class PushOptions:
    """Write a model's repository, with a card made from its run, and upload it.

    The token comes from `hf auth login` or $HF_TOKEN. The card lists what was not measured.
    """

    source: SourceFolder
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """The repository on the Hub."""
    private: bool = False
    """Whether a new repository is private."""
    dry_run: bool = False
    """Only write the folder."""
    output: Path | None = None
    """Where to write the folder; required with --dry-run."""
    overwrite: Overwrite = False
    license: str | None = None
    """Licence of the weights, by its identifier on the Hub (apache-2.0, cc-by-4.0, ...); by default
    that of an earlier push's folder, or not stated."""
    evaluation: tuple[Path, ...] = ()
    """Results of `spikediff evaluate --json`; by default those in the run folder."""
    energy: tuple[Path, ...] = ()
    """Results of `spikediff energy --json`; by default those in the run folder."""
    measure: bool = False
    """Measure energy and firing rates now, on 16 images."""
    num_inference_steps: Steps = None
    space: str | None = None
    """Also create the Space USER/NAME, which serves the model. Give the requirement from which pip
    installs this package, as in 'spikediff[demo] @ git+https://github.com/USER/spikediff'."""
    report: Flat[Report] = Report()


def run(options: PushOptions) -> None:
    _check(options)

    from spikediff.hub.load import load_pipeline
    from spikediff.hub.repository import upload_repository, write_space

    pipe = load_pipeline(options.source)
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory(prefix="spikediff-") as draft:
        folder = Path(draft) / "model"  # with nothing but these files: all are uploaded
        facts, files = _write(pipe, folder, options)
        # A Space is a repository of its own; a dry run leaves it in a folder beside the model.
        page = (folder if options.dry_run else Path(draft)) / "space"
        if options.space is not None:
            written_page = write_space(page, options.repository, options.space)
            files += [Path("space") / path for path in written_page if options.dry_run]
        if options.output is not None:
            new_folder(options.output, "pipeline", options.overwrite, options.source)
            shutil.copytree(folder, options.output, dirs_exist_ok=True)
        for path in files:
            print(f"{(folder / path).stat().st_size:>12,}  {path}")
        for gap in _gaps(facts):
            print(f"the card says {_GAPS[gap]}")
        address = None
        if not options.dry_run:
            address = upload_repository(folder, options.repository, options.private)
            if options.space is not None:
                print(upload_repository(page, options.repository, options.private, space=True))
    print(address or f"nothing uploaded; the repository is in {options.output}")
    options.report.write(
        {
            "repository": options.repository,
            "address": address,
            "files": [str(path) for path in files],
            "not_measured": _gaps(facts),
        }
    )


def _check(options: PushOptions) -> None:
    from spikediff.hub.repository import check_licence, check_repository_name

    check_repository_name(options.repository)
    check_licence(options.license)
    if options.dry_run and options.output is None:
        raise UserError("--dry-run: give a folder for the repository with --output")
    if options.measure and options.energy:
        raise UserError("--measure and --energy cannot be combined; choose one")
    if options.output is not None:
        check_new_folder(options.output, options.overwrite)


def _write(pipe: Any, folder: Path, options: PushOptions) -> tuple[Any, list[Path]]:
    """Gather the facts and write the repository; return the facts and the files."""
    from spikediff.diffusion.pipeline import weights_sha256
    from spikediff.hub.describe import can_generate, gather_facts
    from spikediff.hub.load import steps_of
    from spikediff.hub.repository import stated_licence, write_repository
    from spikediff.hub.results import collect_results, measure_energy

    steps = steps_of(pipe, options.num_inference_steps)
    results = collect_results(
        options.source, weights_sha256(pipe), options.evaluation, options.energy
    )
    if options.measure:
        if not can_generate(pipe):
            raise UserError(f"--measure: {kind_of(pipe)} of this network generates no images")
        results = replace(results, energies=measure_energy(pipe, steps))
    name = options.repository.partition("/")[2]
    licence = options.license or stated_licence(options.source)
    facts = gather_facts(pipe, options.source, name, results, licence)
    files = write_repository(folder, pipe, facts, options.source, options.repository, steps)
    return facts, files


_GAPS = {
    "quality": "quality: not measured (spikediff evaluate --json, --evaluation)",
    "energy": "energy: not measured (--measure, or spikediff energy --json, --energy)",
    "licence": "licence of the weights: not stated (--license)",
}


def _gaps(facts: Any) -> list[str]:
    """Return what the card lists as missing."""
    known = (facts.results.evaluations, facts.results.energies, facts.licence)
    return [name for name, value in zip(_GAPS, known, strict=True) if not value]
