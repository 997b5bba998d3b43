"""Classes that a saved pipeline may name: diffusers finds a component only if it is loaded."""

from spikediff import models
from spikediff.schedulers import absorbing_state, analytic_dpm, synaptic_current_ddim

__all__ = ["absorbing_state", "analytic_dpm", "models", "synaptic_current_ddim"]
