"""Train a spiking denoiser in diffusers' own style: accelerate, EMA, a DDPM scheduler, a pipeline.

    accelerate launch examples/train_unconditional.py --output-dir ddpm-digits
    python examples/train_unconditional.py --network integer --num-epochs 40

Start here to put a spiking network into your own loop; `spikediff train` does more. The data are
scikit-learn's digits, or a folder of images (`--train-data-dir`). Two traps, marked below:

1. Batch norm. diffusers' networks have none, so `DDPMPipeline` samples in whatever mode the network
   is in. A spiking network must be in evaluation mode, or an image depends on its batch.
2. The average. diffusers' `EMAModel` averages parameters and drops buffers, so batch norm's
   statistics would be those of the last step. torch's `AveragedModel(use_buffers=True)` keeps them.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.utils.pil_utils import make_image_grid
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

import spikediff as sd
from spikediff.data import load_images, to_model_range


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a spiking denoiser with diffusers.")
    parser.add_argument("--network", choices=["sddpm", "integer"], default="sddpm")
    parser.add_argument("--train-data-dir", default="digits", help="digits, or a folder of images")
    parser.add_argument("--resolution", type=int, default=None, help="pixels of a folder's images")
    parser.add_argument("--output-dir", type=Path, default=Path("ddpm-spiking"))
    parser.add_argument("--train-batch-size", type=int, default=32)
    parser.add_argument("--num-epochs", type=int, default=35)
    parser.add_argument("--max-train-steps", type=int, default=None, help="stop earlier")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--lr-warmup-steps", type=int, default=50)
    parser.add_argument("--ema-decay", type=float, default=0.995)
    parser.add_argument("--ddpm-num-inference-steps", type=int, default=50)
    parser.add_argument("--eval-batch-size", type=int, default=16)
    parser.add_argument("--gradient-accumulation-steps", type=int, default=1)
    parser.add_argument("--mixed-precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def make_network(name: str, size: int, channels: int) -> nn.Module:
    """Return a small denoiser: `model(sample, timestep).sample`, as diffusers' networks."""
    if name == "integer":
        return sd.IntegerSpikingUNet(
            size, channels, block_out_channels=(32, 64), layers_per_block=1
        )
    return sd.SpikingUNet(
        size,
        channels,
        base_channels=32,
        channel_mult=(1, 2, 2),
        layers_per_block=1,
        spiking_steps=4,
    )


def sample(model: nn.Module, scheduler: DDPMScheduler, args: argparse.Namespace) -> None:
    """Generate a grid and save the pipeline."""
    model.eval()  # trap 1
    pipeline = DDPMPipeline(unet=model, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=args.eval_batch_size,
        generator=torch.Generator().manual_seed(args.seed),
        num_inference_steps=args.ddpm_num_inference_steps,
    ).images
    pipeline.save_pretrained(args.output_dir)
    make_image_grid(images, rows=1, cols=len(images)).save(args.output_dir / "grid.png")


def main(args: argparse.Namespace) -> None:
    """Train, sample, save."""
    accelerator = Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        mixed_precision=args.mixed_precision,
    )
    set_seed(args.seed)

    dataset = load_images(args.train_data_dir, "train", image_size=args.resolution)
    pixels = to_model_range(dataset.stack())  # [N, C, H, W] in [-1, 1]
    loader = DataLoader(
        TensorDataset(pixels), batch_size=args.train_batch_size, shuffle=True, drop_last=True
    )
    model = make_network(args.network, pixels.shape[-1], pixels.shape[1])
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0)
    updates = args.num_epochs * len(loader) // args.gradient_accumulation_steps
    updates = min(updates, args.max_train_steps or updates)
    lr_scheduler = get_scheduler(
        "cosine",
        optimizer,
        num_warmup_steps=args.lr_warmup_steps * accelerator.num_processes,
        num_training_steps=updates * accelerator.num_processes,
    )
    model, optimizer, loader, lr_scheduler = accelerator.prepare(
        model, optimizer, loader, lr_scheduler
    )
    average = AveragedModel(  # trap 2
        accelerator.unwrap_model(model),
        multi_avg_fn=get_ema_multi_avg_fn(args.ema_decay),
        use_buffers=True,
    )

    done = 0
    progress = tqdm(total=updates, disable=not accelerator.is_local_main_process)
    model.train()
    while done < updates:
        for (clean,) in loader:
            noise = torch.randn_like(clean)
            t = torch.randint(1000, (len(clean),), device=clean.device)
            noisy = scheduler.add_noise(clean, noise, t)
            with accelerator.accumulate(model):
                estimate = model(noisy, t).sample
                loss = F.mse_loss(estimate.float(), scheduler.get_velocity(clean, noise, t))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                average.update_parameters(accelerator.unwrap_model(model))
                done += 1
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.4f}")
            if done == updates:
                break
    progress.close()

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        sample(average.module.to("cpu"), scheduler, args)
    accelerator.end_training()


if __name__ == "__main__":
    main(parse_args())
