"""Vector quantisation: every feature vector becomes the nearest row of a codebook."""

from typing import NamedTuple

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, distributed, nn
from torch.nn.functional import mse_loss

from spikediff.errors import UserError, check_number
from spikediff.files.tensors import check_values
from spikediff.layers.norm import follows_batches
from spikediff.layers.sizes import choose
from spikediff.neurons import carry_nan


def squared_distances(rows: Tensor, centres: Tensor) -> Tensor:
    """Return the squared distances [N, K] of rows from centres, in float32 at least."""
    with torch.autocast(rows.device.type, enabled=False):
        dtype = torch.promote_types(rows.dtype, torch.float32)
        rows, centres = rows.to(dtype), centres.to(dtype)
        norms = rows.square().sum(1, keepdim=True) + centres.square().sum(1)
        return norms - 2.0 * rows @ centres.T


def draw_rows(weights: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw indices [count] of rows by weights [N], with replacement.

    Where all weights are 0, every row is as likely. The generator may be on any device.
    """
    weights = torch.where(weights.sum() > 0, weights, torch.ones_like(weights)).double()
    device = weights.device if generator is None else generator.device
    draws = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
    cumulative = weights.cumsum(0)
    # right=True: a row of weight 0 spans nothing and is never met.
    found = torch.searchsorted(cumulative, draws.to(weights.device) * cumulative[-1], right=True)
    return found.clamp(max=len(weights) - 1)


def k_means(
    rows: Tensor, count: int, generator: torch.Generator | None = None, rounds: int = 10
) -> Tensor:
    """Cluster rows [N, C]: centres [K, C] by k-means++, then so many rounds of Lloyd's means.

    Where there are fewer different rows than K, some centres coincide. A centre that no row chose
    stays.

    Reference: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    """
    centres = rows[draw_rows(rows.new_zeros(len(rows)), 1, generator)]
    nearest = squared_distances(rows, centres)[:, 0]  # [N], of the centres so far
    for _ in range(count - 1):
        centre = rows[draw_rows(nearest.clamp(min=0.0), 1, generator)]
        centres = torch.cat([centres, centre])
        nearest = torch.minimum(nearest, squared_distances(rows, centre)[:, 0])
    for _ in range(rounds):
        counts, sums = gather_rows(rows, squared_distances(rows, centres).argmin(1), count)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1.0), centres)
    return centres


def gather_rows(rows: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return how many rows [N, C] carry each label [N], and their sums: [K] and [K, C].

    A matrix product, which gives the same bits at every call, where adding in place does not.
    """
    chosen = torch.nn.functional.one_hot(labels, count).to(rows)  # [N, K]
    return chosen.sum(0), chosen.T @ rows


CODEBOOKS = {
    "gradient": "a parameter that the loss moves (released code)",
    "ema": "averages of the features that chose each code",
}


class Quantised(NamedTuple):
    """The quantised form of a batch of features z.

    Attributes:
        values: The chosen rows e [B, C, h, w]; their gradient reaches a learned codebook, not z.
        tokens: Indices of these rows [B, h, w].
        codebook_loss: $mean (e - sg[z])^2$, which moves the codebook; 0 for an averaged codebook.
        commitment_loss: $mean (z - sg[e])^2$, which moves the features; not yet weighted.
        perplexity: The effective number of codes in use.
    """

    values: Tensor
    tokens: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor
    perplexity: Tensor


def perplexity(tokens: Tensor, codebook_size: int) -> Tensor:
    r"""Return $\exp(-\sum_k p_k \log p_k)$ of the frequencies p: how many codes are in use."""
    counts = torch.bincount(tokens.flatten(), minlength=codebook_size).float()
    entropy: Tensor = torch.special.entr(counts / counts.sum()).sum()
    return entropy.exp()


class VectorQuantiser(nn.Module):
    r"""Replace feature vectors by the nearest rows of a codebook, by squared Euclidean distance.

    The codebook is learned in one of two ways:

    - "gradient": it is a parameter, drawn from N(0, 1), that `codebook_loss` moves (the released
      code of Spiking-Diffusion). A code that is never chosen is never moved.
    - "ema": row k is the average $m_k / N_k$ of the features that chose it, with
      $N_k \leftarrow \gamma N_k + (1 - \gamma) n_k$ and $m_k$ likewise of their sum. The first
      batch of the training starts it by k-means. A code that gets less than `restart_share` of an
      even share moves to a feature of the batch, the likelier the worse that one is coded.

    These averages are buffers, like batch norm's, updated in training with gradients on.
    Unlike batch norm's they cover the whole batch, or accumulated part of a batch, whatever the
    number of processes.

    Shape: [B, C, h, w] -> `Quantised`.

    Example:
        >>> quantiser = VectorQuantiser(codebook_size=2, channels=1)
        >>> quantiser.codebook.data = torch.tensor([[0.0], [1.0]])
        >>> quantiser(torch.tensor([0.4, 0.7, 9.0]).view(1, 1, 1, 3)).tokens.tolist()
        [[[0, 1, 1]]]

    Reference: van den Oord et al., "Neural discrete representation learning", NeurIPS 2017
    (averages: its appendix A.1); restarts: Dhariwal et al., "Jukebox", 2020.
    """

    codebook: Tensor
    code_counts: Tensor
    code_sums: Tensor

    def __init__(
        self,
        codebook_size: int = 128,
        channels: int = 16,
        codebook: str = "gradient",
        decay: float = 0.99,
        restart_share: float = 0.03,
    ) -> None:
        super().__init__()
        choose("VQSVAE", CODEBOOKS, "codebook", codebook)
        check_number("VQSVAE: codebook_decay", decay, 0, below=1)
        check_number("VQSVAE: restart_share", restart_share, 0, below=1)
        self.decay = decay
        self.restart_share = restart_share
        self.averages = codebook == "ema"
        codes = torch.randn(codebook_size, channels)
        if self.averages:
            self.register_buffer("codebook", codes)
            self.register_buffer("code_counts", torch.zeros(codebook_size))  # N_k
            self.register_buffer("code_sums", torch.zeros(codebook_size, channels))  # m_k
        else:
            self.codebook = nn.Parameter(codes)

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Quantised:
        """Quantise features [B, C, h, w], and in training let an averaged codebook follow them."""
        rows = self._rows(features)
        learning = self.averages and follows_batches(self)
        if learning and not self.code_counts.any():
            self._start(rows, generator)
        tokens = self._nearest(features)
        values: Tensor = carry_nan(self.look_up(tokens), features)
        if learning:
            self._follow(rows, tokens.flatten(), generator)
        moved = values.new_zeros(()) if self.averages else mse_loss(values, features.detach())
        committed = mse_loss(features, values.detach())
        return Quantised(values, tokens, moved, committed, perplexity(tokens, len(self.codebook)))

    @apply_forward_hook
    def nearest(self, features: Tensor) -> Tensor:
        """Return the tokens [B, h, w] of finite features [B, C, h, w]."""
        check_values(features, "VectorQuantiser")
        check_values(self.codebook, "VectorQuantiser's codebook")
        return self._nearest(features)

    def _nearest(self, features: Tensor) -> Tensor:
        batch, _, height, width = features.shape
        distances = squared_distances(self._rows(features), self.codebook.detach())
        return distances.argmin(1).view(batch, height, width)

    @apply_forward_hook
    def look_up(self, tokens: Tensor) -> Tensor:
        """Return the rows [B, C, h, w] of tokens [B, h, w]."""
        return nn.functional.embedding(tokens, self.codebook).movedim(-1, 1)

    def _rows(self, features: Tensor) -> Tensor:
        """Return features [B, C, h, w] as rows [B*h*w, C], without a gradient."""
        if features.dim() != 4 or features.shape[1] != self.codebook.shape[1]:
            raise UserError(
                f"VectorQuantiser: expects features [B, {self.codebook.shape[1]}, h, w], got "
                f"{tuple(features.shape)}"
            )
        return features.detach().movedim(1, -1).flatten(0, 2)

    @torch.no_grad()
    def _start(self, rows: Tensor, generator: torch.Generator | None) -> None:
        """Place the codes by k-means, each as heavy as the rows that it stands for."""
        rows = _of_all_processes(rows.to(self.codebook))
        with torch.autocast(rows.device.type, enabled=False):
            codes = k_means(rows, len(self.codebook), generator)
            labels = squared_distances(rows, codes).argmin(1)
            counts, _ = gather_rows(rows, labels, len(codes))
        self.codebook.copy_(codes)
        self.code_counts.copy_(counts)
        self.code_sums.copy_(codes * self.code_counts[:, None])
        self._agree()

    @torch.no_grad()
    def _follow(self, rows: Tensor, tokens: Tensor, generator: torch.Generator | None) -> None:
        """Move every code that was chosen to the average of what chose it; restart dead ones."""
        rows, tokens = _of_all_processes(rows.to(self.codebook)), _of_all_processes(tokens)
        with torch.autocast(rows.device.type, enabled=False):  # sums of a batch in full precision
            counts, sums = gather_rows(rows, tokens, len(self.codebook))
        self.code_counts.lerp_(counts, 1.0 - self.decay)
        self.code_sums.lerp_(sums, 1.0 - self.decay)
        # Without new features N and m shrink alike: the code stays, and nothing divides by 0.
        chosen = counts > 0
        self.codebook[chosen] = self.code_sums[chosen] / self.code_counts[chosen, None]
        self._restart(rows, generator)
        self._agree()

    def _agree(self) -> None:
        """Take the first process's codes: every process has drawn with a generator of its own."""
        if _is_shared():
            for tensor in (self.codebook, self.code_counts, self.code_sums):
                distributed.broadcast(tensor, src=0)

    def _restart(self, rows: Tensor, generator: torch.Generator | None) -> None:
        """Move dead codes to features that the living ones code badly."""
        even = self.code_counts.sum() / len(self.codebook)
        dead = self.code_counts < self.restart_share * even
        error = squared_distances(rows, self.codebook).amin(1).clamp(min=0.0)  # [N]
        fresh = rows[draw_rows(error, len(self.codebook), generator)]
        self.codebook[dead] = fresh[dead]
        self.code_counts[dead] = even  # as heavy as an average one: time to prove its worth
        self.code_sums[dead] = fresh[dead] * even


def _is_shared() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _of_all_processes(rows: Tensor) -> Tensor:
    """Return the rows [N, ...] of all processes, those of the first one first."""
    if not _is_shared():
        return rows
    gathered = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)
