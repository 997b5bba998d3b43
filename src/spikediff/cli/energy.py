"""`spikediff energy SOURCE`: measure the energy of an image by counting its operations."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import OutputFile
from spikediff.cli.options import Flat, NumImages, Report, Sampling, Seed, Source
from spikediff.cli.outputs import check_new_folder, say_where, write_text
from spikediff.errors import UserError
from spikediff.tables import wrapped

Costs = Annotated[
    str,
    tyro.conf.arg(
        help="The cost table (45nm, 45nm-float16, 45nm-int8, 7nm, loihi), or a YAML file."
    ),
]


@dataclass(frozen=True)
class EnergyOptions:
    """Count the operations of a generation, layer by layer and step by step, and price them."""

    model: Flat[Source]
    num_images: NumImages = 16
    seed: Seed = 0
    sampling: Flat[Sampling] = Sampling()
    accounting: Literal["strict", "paper"] = "strict"
    """strict: every real-valued input multiplies; paper: rate times FLOPs, as SDDPM counts."""
    costs: Costs = "45nm"
    batch_norm: Literal["folded", "billed"] = "folded"
    """Whether batch norm is part of the convolution before it, or one MAC per element."""
    padding: bool = True
    """Whether the MACs of real-valued inputs include the zeros of padding."""
    by: Literal["part", "layer", "step"] = "part"
    """Rows of the table."""
    synapses: Literal["trained", "merged", "carried"] = "trained"
    """For FSDDIM: merged, as on a chip; carried, without a multiplied image current."""
    audit: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the operations that accumulate-only hardware cannot run."""
    memory: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Estimate the memory traffic."""
    compare: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compare with the ordinary network of the same widths and steps, and with it quantised."""
    counterpart: Path | None = None
    """With --compare: a trained ordinary network to compare with, as a pipeline or run folder."""
    differences: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --compare: also run the quantised network by differences (Ditto) and measure it."""
    plots: Path | None = None
    """A folder for plots; it keeps its other files."""
    plot_format: Literal["png", "svg", "pdf"] | None = None
    """With --plots: the format of the plots; png by default."""
    csv: Annotated[Path | None, OutputFile()] = None
    """Also write a CSV table with a line per denoising step, layer and operation."""
    report: Flat[Report] = Report()


def run(options: EnergyOptions) -> None:
    if options.plots is not None:
        check_new_folder(options.plots, True, "plots")  # its pictures have fixed names
    elif options.plot_format is not None:
        raise UserError("--plot-format needs --plots")
    if options.audit and options.accounting != "strict":
        raise UserError("--audit needs --accounting strict")
    if (options.counterpart or options.differences) and not options.compare:
        raise UserError("--counterpart and --differences need --compare")
    if options.differences and options.accounting != "strict":
        raise UserError("--differences needs --accounting strict")

    from spikediff.diffusion.pipeline import scheduler_name, weights_sha256
    from spikediff.energy import audit

    measured = measure(options)
    meter, report, ordinary = measured.meter, measured.report, measured.ordinary
    figures = report.to_dict() | {
        "threshold": options.sampling.threshold,
        "synapses": options.synapses,
        "execution": options.model.execution,
        "weights_sha256": weights_sha256(measured.trained),
        "scheduler": scheduler_name(measured.pipe),
    }
    _print_totals(report)
    print(f"\n{report.table(options.by)}")
    if options.memory:
        _print_memory(report)
    if options.audit:
        verdict = audit(report)
        print(f"\n{verdict.table()}")
        figures["audit"] = verdict.to_dict()
    if measured.comparison is not None:
        print(f"\n{measured.comparison.table()}")
        compared = measured.comparison.to_dict()
        figures["comparison"] = compared | _given_counterpart(measured, options)
    if options.csv is not None:
        write_text(options.csv, report.to_csv())
    if options.plots is not None:
        _draw(meter, report, ordinary and _priced(ordinary, options), options)
    options.report.write(figures)


@dataclass(frozen=True)
class Measured:
    """A generation that was counted and priced."""

    trained: Any  # the pipeline as it was loaded
    pipe: Any  # the pipeline that generated, with merged or carried synapses if requested
    meter: Any
    report: Any
    ordinary: Any | None = None  # the meter of the ordinary counterpart, with `--compare`
    comparison: Any | None = None
    counterpart: Any | None = None  # its pipeline


def measure(options: EnergyOptions) -> Measured:
    """Generate under a meter; with `compare`, do the same with the ordinary counterpart."""
    from spikediff.energy import load_costs

    load_costs(options.costs)  # a wrong name is an error before minutes of work
    trained = options.model.load(float64_needed="the meter")
    pipe = _with_synapses(trained, options.synapses)
    ordinary = _counterpart(trained, options) if options.compare else None
    meter = _observe(pipe, options, changes=options.compare)
    report = _priced(meter, options)
    if ordinary is None:
        return Measured(trained, pipe, meter, report)
    unguided = replace(options, sampling=replace(options.sampling, threshold=None))
    ordinary_meter = _observe(ordinary, unguided)
    comparison = _compared(meter, ordinary, ordinary_meter, unguided)
    return Measured(trained, pipe, meter, report, ordinary_meter, comparison, ordinary)


def _with_synapses(pipe: Any, synapses: str) -> Any:
    """Return the pipeline with its network's linear chains as they are, merged or carried."""
    if synapses == "trained":
        return pipe

    from spikediff.systems.fsddim.merged.merge import carry_currents, merge_synapses
    from spikediff.systems.fsddim.network import SynapticCurrentUNet

    unet = getattr(pipe, "unet", None)
    if not isinstance(unet, SynapticCurrentUNet):
        raise UserError(f"--synapses {synapses}: only a SynapticCurrentUNet (FSDDIM) has them")
    change = merge_synapses if synapses == "merged" else carry_currents
    return type(pipe)(change(unet), pipe.scheduler)


def _observe(pipe: Any, options: EnergyOptions, changes: bool = False) -> Any:
    from spikediff.energy import EnergyMeter

    observed = EnergyMeter(pipe, images=options.num_images, changes=changes)
    with options.sampling.guided(pipe), observed as meter:
        _generate(pipe, options)
    return meter


def _generate(pipe: Any, options: EnergyOptions) -> None:
    seeds = range(options.seed, options.seed + options.num_images)
    for _ in options.sampling.generate(pipe, seeds, partial(pipe, output_type="pt")):
        pass


def _compared(spiking: Any, ordinary: Any, meter: Any, options: EnergyOptions) -> Any:
    """Return the comparison of a spiking network's meter with its ordinary counterpart's."""
    from spikediff.energy import compare, load_costs, measure_differences

    differences = None
    if options.differences:
        bits = spiking.ledger.activation_bits
        differences = measure_differences(ordinary, lambda: _generate(ordinary, options), bits)
    return compare(
        spiking,
        meter,
        load_costs(options.costs),
        differences,
        trained=options.counterpart is not None,
        accounting=options.accounting,
        batch_norm=options.batch_norm,
        padding=options.padding,
    )


def _counterpart(spiking: Any, options: EnergyOptions) -> Any:
    """Return a pipeline of the ordinary network: the given one, or one with new weights.

    The energy of an ordinary network does not depend on its weights.
    """
    from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
    from spikediff.diffusion.model import ann_counterpart
    from spikediff.hub.load import denoiser_of, load_pipeline
    from spikediff.neurons import SpikeEmitter

    unet = denoiser_of(spiking, options.model.source)
    if options.counterpart is None:
        ordinary = ann_counterpart(unet).eval().to(spiking.device)
        return SpikingDiffusionPipeline(ordinary, spiking.scheduler)
    model = options.model
    pipe = load_pipeline(options.counterpart, model.scheduler, model.device)
    given = denoiser_of(pipe, options.counterpart)
    if any(isinstance(module, SpikeEmitter) for module in given.modules()):
        raise UserError(f"--counterpart {options.counterpart}: {type(given).__name__} has neurons")
    for name in ("sample_size", "in_channels"):
        mine, other = unet.config[name], given.config[name]
        if mine != other:
            raise UserError(f"--counterpart {options.counterpart}: {name} is {other}, not {mine}")
    return pipe


def _given_counterpart(measured: Measured, options: EnergyOptions) -> dict[str, Any]:
    """Return source and size of `--counterpart`, if given; print them if the size is another's."""
    if options.counterpart is None:
        return {}
    from spikediff.diffusion.model import ann_counterpart
    from spikediff.hub.load import denoiser_of

    name = options.counterpart.resolve().name
    given = denoiser_of(measured.counterpart, options.counterpart).num_parameters()
    facts = {"counterpart": name, "counterpart_parameters": given}
    trained = denoiser_of(measured.trained, options.model.source)
    with suppress(UserError):  # an ordinary network has no counterpart of its own
        expected: Any = ann_counterpart(trained)
        facts["own_parameters"] = own = expected.num_parameters()
        if given != own:
            told = f"--counterpart {name}: {given:,} parameters; the network's own has {own:,}"
            print(wrapped(told))
    return facts


def _priced(meter: Any, options: EnergyOptions) -> Any:
    return meter.report(
        options.accounting, options.costs, batch_norm=options.batch_norm, padding=options.padding
    )


def _print_totals(report: Any) -> None:
    from spikediff.energy import SPIKES_PER_SYNAPSE_LIMITS

    kind = "no neurons" if report.spiking_steps is None else f"T = {report.spiking_steps}"
    lines = [report.summary, f"images measured: {report.images}; {kind}"]
    if report.neuron_updates:
        lines[-1] += (
            f"; neurons fire at {report.firing_rate:.1%} of their updates, "
            f"{report.neuron_updates / report.images:,.0f} per image"
        )
    if report.spikes_per_synapse is not None:
        low, high = SPIKES_PER_SYNAPSE_LIMITS
        lines.append(
            f"T x rate: {report.spikes_per_synapse:.3f} spikes per synapse and call (limit of a "
            f"bit-matched counterpart: {low:.2f} to {high:.2f}, Yan et al., arXiv 2409.08290 v4)"
        )
    if report.neuron_energy_pj is not None:
        per_image = report.neuron_energy_pj / report.images
        lines.append(f"neuron updates add {per_image / 1e6:,.3f} uJ per image")
    print(wrapped(*lines, f"prices: {report.costs.source}"))


def _print_memory(report: Any) -> None:
    """Print the bounds of the memory traffic per image."""
    print()
    for words, reuse in (("every tensor once per call", True), ("no reuse", False)):
        traffic, energy = report.traffic(reuse), report.memory_energy_pj(reuse)
        cost = "" if energy is None else f"; {energy / report.images / 1e6:,.3f} uJ"
        words_of = {"weights": traffic.weights, "inputs": traffic.activations, "sums": traffic.sums}
        parts = ", ".join(f"{name} {n / report.images / 1e6:,.3f}" for name, n in words_of.items())
        print(wrapped(f"memory traffic per image, {words}, MB: {parts}{cost}"))


def _draw(meter: Any, report: Any, ordinary: Any, options: EnergyOptions) -> None:
    from spikediff.energy.plots import plot_comparison, plot_firing_rates, plot_parts

    assert options.plots is not None
    names = ("energy_by_part", "firing_rate", "comparison")
    kind = options.plot_format or "png"
    by_part, rates, comparison = (options.plots / f"{name}.{kind}" for name in names)
    plot_parts(report, by_part)
    pictures = [by_part.name]
    if report.neuron_updates:
        plot_firing_rates(report, rates)
        pictures.append(rates.name)
    if ordinary is not None:
        accounting: Any = {"strict": "paper", "paper": "strict"}[options.accounting]
        other = replace(options, accounting=accounting)
        both = {
            f"spiking, {options.accounting}": report,
            f"spiking, {accounting}": _priced(meter, other),
            "ordinary": ordinary,
        }
        plot_comparison(both, comparison)
        pictures.append(comparison.name)
    say_where(f"\n{', '.join(pictures)}", options.plots)
