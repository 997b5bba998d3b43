"""The systems' papers: what a card cites."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """A published system.

    Attributes:
        name: What it is called.
        authors: As BibTeX has them.
        title: Title of the paper.
        venue: Where and when.
        year: Year.
        arxiv: Number on arXiv.
        spiking: Whether its networks are spiking ones.
    """

    name: str
    authors: str
    title: str
    venue: str
    year: int
    arxiv: str
    spiking: bool = True

    def bibtex(self) -> str:
        """Return the entry for a bibliography."""
        key = f"{self.authors.split(',')[0].lower()}{self.year}{self.name.lower().split('-')[0]}"
        return (
            f"@misc{{{key},\n"
            f"  author = {{{self.authors}}},\n"
            f"  title = {{{self.title}}},\n"
            f"  year = {{{self.year}}},\n"
            f"  note = {{{self.venue}}},\n"
            f"  eprint = {{{self.arxiv}}},\n"
            f"  archivePrefix = {{arXiv}}\n"
            f"}}"
        )


SDDPM = Paper(
    "SDDPM",
    "Cao, Jiahang and others",
    "Spiking Denoising Diffusion Probabilistic Models",
    "WACV 2024",
    2024,
    "2306.17046",
)
SDM = Paper(
    "SDM", "Cao, Jiahang and others", "Spiking Diffusion Models", "IEEE TAI", 2025, "2408.16467"
)
FSDDIM = Paper(
    "FSDDIM",
    "Watanabe, Ryo and Mukuta, Yusuke and Harada, Tatsuya",
    "Fully Spiking Denoising Diffusion Implicit Models",
    "arXiv",
    2023,
    "2312.01742",
)
SPIKING_DIFFUSION = Paper(
    "Spiking-Diffusion",
    "Liu, Mingxuan and others",
    "Spiking-Diffusion: Vector Quantized Discrete Diffusion Model with Spiking Neural Networks",
    "arXiv",
    2023,
    "2308.10187",
)
FSVAE = Paper(
    "FSVAE",
    "Kamata, Hiromichi and Mukuta, Yusuke and Harada, Tatsuya",
    "Fully Spiking Variational Autoencoder",
    "AAAI 2022",
    2022,
    "2110.00375",
)
DDPM = Paper(
    "DDPM",
    "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
    "Denoising Diffusion Probabilistic Models",
    "NeurIPS 2020",
    2020,
    "2006.11239",
    spiking=False,
)
VAE = Paper(
    "VAE",
    "Kingma, Diederik P. and Welling, Max",
    "Auto-Encoding Variational Bayes",
    "ICLR 2014",
    2014,
    "1312.6114",
    spiking=False,
)

# By the class of a network; a U-Net with temporal scaling is SDM's.
_PAPERS = {
    "SpikingUNet": SDDPM,
    "ConvertedUNet": SDM,
    "QuantisedUNet": SDM,
    "SynapticCurrentUNet": FSDDIM,
    "VQSVAE": SPIKING_DIFFUSION,
    "SpikingImageDecoder": SPIKING_DIFFUSION,
    "FSVAE": FSVAE,
    "VAE": VAE,
    "UNet2DModel": DDPM,
}


def paper_of(networks: Iterable[Any]) -> Paper | None:
    """Return the paper of the system that the networks of a pipeline are of; None of no known one.

    Args:
        networks: The networks, with their `.config`.
    """
    for network in networks:
        if network.config.get("temporal_scaling"):
            return SDM
        if (paper := _PAPERS.get(type(network).__name__)) is not None:
            return paper
    return None
