"""The ordinary U-Net of DDPM (Ho et al., 2020), the counterpart of spiking ones: `network`."""
