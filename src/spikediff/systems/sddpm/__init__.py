"""SDDPM (Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024).

To read the system, open in order:

1. `layers.residual` and `layers.coding`: its residual block, direct coding and the read-out.
2. `network`: `SpikingUNet`, the denoiser.
3. `diffusion.objective`: the denoising loss, equation 14 of DDPM.
4. `diffusion.denoising_pipeline`: the pipeline that samples with it.
5. `released`: the authors' checkpoints.

docs/systems/sddpm.md tells where paper and code differ.
"""
