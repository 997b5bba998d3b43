"""Spiking denoisers converted from ordinary ones, SDM's second way to a spiking network.

To read the system, open in order:

1. `quantised`: `QuantisedUNet`, whose activations have as many levels as a window has spikes.
2. `quantise`: training the clips of the activations.
3. `replace_modules`, `network`: `ConvertedUNet`, with neurons where activations were.
4. `convert`: from a trained denoiser to a spiking one.
5. `fine_tune`: block-wise fine-tuning, and where conversion loses.
6. `released`: the authors' converted checkpoints.

docs/systems/conversion.md explains the method.
"""
