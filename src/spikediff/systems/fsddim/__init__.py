"""FSDDIM (Watanabe et al., "Fully spiking denoising diffusion implicit models", 2023).

To read the system, open in order:

1. `blocks`: the residual block whose neuron fires last, and resampling.
2. `network`: `SynapticCurrentUNet`, from currents to currents.
3. `loss`: synaptic current learning.
4. `scheduler`: DDIM without noise as a rotation, and `pipeline`, which samples by it.
5. `merged`: the network as a chip would hold it, one synapse between two populations.
6. `released`: the authors' checkpoints.

docs/systems/fsddim.md tells where paper and code differ.
"""
