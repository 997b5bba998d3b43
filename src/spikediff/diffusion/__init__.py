"""Diffusion: noise schedules, samplers, the sampling loop, seeds, classes, the loss interface.

Read `schedulers` (samplers by name), `loop` (the loop of every pipeline), `objective` (what
training minimises), then `denoising_pipeline`, the pipeline of every image denoiser.
"""
