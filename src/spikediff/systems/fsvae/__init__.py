"""FSVAE (Kamata et al., "Fully spiking variational autoencoder", 2022), and the ordinary VAE.

To read the system, open in order:

1. `latent`: autoregressive Bernoulli spike sampling, the latent space.
2. `network`: `FSVAE`; `vae`: the ordinary `VAE`.
3. `loss`: reconstruction, and the divergence of posterior and prior.
4. `pipeline`: generating and reconstructing.
5. `released`: the authors' checkpoints.

docs/systems/fsvae.md tells where paper and code differ.
"""
