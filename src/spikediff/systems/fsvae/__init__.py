"""FSVAE (Kamata et al., "Fully spiking variational autoencoder", 2022), and the ordinary VAE.

To read the system, open in order:

1. `latent`: autoregressive Bernoulli spike sampling, the latent space.
2. `autoencoder`: the base of both networks; `network`: `FSVAE`; `vae`: the ordinary `VAE`.
3. `loss`: reconstruction, and the divergence of posterior and prior.
4. `diffusion.autoencoder_pipeline`: generating and reconstructing.
5. `released`: the authors' checkpoints.

docs/systems/fsvae.md lists where paper and code differ.
"""

from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.systems import Released, System, Trainable
from spikediff.systems.fsvae.loss import AutoencoderObjective, FSVAEObjective
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.fsvae.released import load_fsvae
from spikediff.systems.fsvae.vae import VAE

SYSTEM = System(
    networks={
        name: Trainable(
            network,
            {"autoencoder": objective},
            lambda model, _run: VAEPipeline(model),
            part="vae",
            keys={"channels": "widths"},
        )
        for name, network, objective in (
            ("fsvae", FSVAE, FSVAEObjective),
            ("vae", VAE, AutoencoderObjective),
        )
    },
    released={"fsvae": Released(load_fsvae, ("before_latent_layer.weight",), VAEPipeline)},
)
