"""Spiking-Diffusion (Liu et al., "Vector quantized discrete diffusion model with SNNs", 2023).

To read the system, open in order:

1. `blocks` and `quantiser`: the encoder, the feature of its spikes, and the codebook.
2. `vq_svae`: `VQSVAE`, the autoencoder of the first stage.
3. `decoder`: `SpikingImageDecoder`, which guesses masked tokens in the second stage.
4. `absorbing`: absorbing-state diffusion, its scheduler and its loss.
5. `pipeline`: from masks to tokens to images.
6. `released`: the authors' checkpoints.

docs/systems/spiking_diffusion.md tells where paper and code differ.
"""
