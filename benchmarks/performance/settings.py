"""What a run of the benchmark is told."""

from dataclasses import dataclass, field
from pathlib import Path

from performance.table import Patience
from performance.timing import clock_for


@dataclass(frozen=True)
class Settings:
    """Choices of the command line.

    Attributes:
        quick: Small shapes and few rounds, to see that everything runs.
        threads: Threads of torch.
        compiled: Whether SpikingJelly is also measured under `torch.compile`, which takes minutes.
        sddpm: A trained run of a denoiser, for the whole network.
        random_weights: Whether the full-size SDDPM network is measured with random weights.
        pipelines: Runs by system, for images per second.
        integer: A trained run, or a pipeline, of an integer network; None takes random weights.
        data_dir: Folder of MNIST, for the command `evaluate`.
        feature_weights: Feature weights, for the same.
        plot: Where to draw the growth.
        batches: Images at once in the whole network, one case each.
        ways: The ways to run the whole network that are measured; empty for all of its table.
        times_only: Whether memory and agreement of the whole network are left out.
        tasks: What the whole network is measured at: "forward", "training".
    """

    quick: bool = False
    threads: int = 1
    compiled: bool = False
    sddpm: Path | None = None
    random_weights: bool = False
    pipelines: dict[str, Path] = field(default_factory=dict)
    integer: Path | None = None
    data_dir: Path | None = None
    feature_weights: Path | None = None
    plot: Path | None = None
    batches: tuple[int, ...] = (1,)
    ways: tuple[str, ...] = ()
    times_only: bool = False
    tasks: tuple[str, ...] = ("forward", "training")

    def patience(self, rounds: int, budget: float) -> Patience:
        """Return how long to measure: so long, or a tenth of it in a quick run."""
        _, clock = clock_for(self.threads)
        if self.quick:
            return Patience(clock, max(3, rounds // 10), budget / 10)
        return Patience(clock, rounds, budget)
