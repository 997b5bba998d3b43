"""Spiking-Diffusion (Liu et al., "Vector quantized discrete diffusion model with SNNs", 2023).

To read the system, open in order:

1. `quantiser`: the codebook.
2. `vq_svae`: `VQSVAE`, the autoencoder of the first stage, and its parts.
3. `decoder`: `SpikingImageDecoder`, which predicts masked tokens in the second stage.
4. `absorbing`: absorbing-state diffusion and its scheduler.
5. `loss`: the objectives of both stages.
6. `pipeline`: from masks to tokens to images.
7. `released`: the authors' checkpoints.

docs/systems/spiking_diffusion.md lists where paper and code differ.
"""

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.objective import RunParts
from spikediff.systems import Released, System, Trainable
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.loss import TokenObjective, VQObjective
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.released import load_image_decoder, load_vq_svae
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

_TEMPERATURE = 0.65  # of the released code's samples; the paper does not say which its scores have


def both_stages(
    vqvae: VQSVAE,
    decoder: ModelMixin,
    temperature: float = _TEMPERATURE,
    unmasking: str = "ancestral",
) -> DiffusionPipeline:
    """Return the pipeline of both stages: one timestep per token."""
    height, width = vqvae.latent_size
    scheduler = AbsorbingStateScheduler(
        height * width, vqvae.config.codebook_size, temperature=temperature, unmasking=unmasking
    )
    pipe: DiffusionPipeline = VQSpikingDiffusionPipeline(vqvae, decoder, scheduler)
    return pipe


def sampled_tokens(model: ModelMixin, run: RunParts) -> DiffusionPipeline:
    """Return the pipeline of a trained second stage."""
    sampling = run.recipe.sampling
    vqvae = run.first_stage.to(model.device)
    return both_stages(vqvae, model, sampling.temperature, sampling.unmasking)


SYSTEM = System(
    networks={
        "vq_svae": Trainable(
            VQSVAE,
            {"vq_svae": VQObjective},
            lambda model, _run: VAEPipeline(model),
            part="vae",
            preview="reconstructions",
        ),
        "spiking_image_decoder": Trainable(
            SpikingImageDecoder,
            {"absorbing": TokenObjective},
            sampled_tokens,
            part="decoder",
            items="tokens",
            from_run={"codebook_size": "codebook_size"},
            fixed={"embedding_channels": None},
            keys={"input": "token_input"},
        ),
    },
    released={
        "spiking-diffusion": Released(
            load_vq_svae, ("vq_layer.embeddings.weight",), VAEPipeline, sample_size=28
        ),
        "spiking-diffusion-decoder": Released(
            load_image_decoder,
            ("conv2.0.weight",),
            both_stages,
            spiking_steps=16,
            first_stage="spiking-diffusion",
        ),
    },
)
