"""CIFAR-10 ResNets of depth 20 and 56: 64 pooled features and class probabilities.

Their distances are comparable with one another, but not with a FID.

Reference:
    He et al. 2016, "Deep residual learning", section 4.2, shortcuts of option A (no parameters);
    weights: akamaster/pytorch_resnet_cifar10 (BSD-2-Clause).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.errors import UserError
from spikediff.evaluation.features.network import FeatureNetwork, Normalise
from spikediff.files.weights import load_renamed, read_state_dict

IMAGE_SIZE = 32
WIDTHS = (16, 32, 64)
CLASSES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in training


class CifarResNet(nn.Module):
    """Residual blocks in three stages: [B, 3, 32, 32] -> (features [B, 64], logits [B, 10])."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks)
        self.linear = nn.Linear(WIDTHS[2], CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features [B, 64] and logits [B, 10] of normalised images [B, 3, H, W]."""
        h = F.relu(self.bn1(self.conv1(images)))  # [B, 16, H, W]
        h = self.layer3(self.layer2(self.layer1(h)))  # [B, 64, H/4, W/4]
        features = h.mean(dim=(2, 3))
        return features, self.linear(features)


class _Block(nn.Module):
    """Two convolutions and a shortcut, which is strided and padded if the widths differ."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.stride = 1 if c_in == c_out else 2
        self.padding = (c_out - c_in) // 2  # zero channels on each side
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        kept = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(kept, (0, 0, 0, 0, self.padding, self.padding))  # [B, c_out, H', W']
        return F.relu(h + shortcut)


def _stage(c_in: int, c_out: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Block(c_in, c_out), *(_Block(c_out, c_out) for _ in range(blocks - 1)))


def to_imagenet_range(images: Tensor) -> Tensor:
    """Return (x / 255 - mean) / std per channel, float32, for uint8 images [B, 3, H, W]."""
    return Normalise(MEAN, STD)(images)


def load_resnet(
    path: Path | str, depth: int = 20, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Load the feature network `resnet20` or `resnet56`, e.g. from `resnet20-12fca82f.th`."""
    if depth < 8 or (depth - 2) % 6:
        raise UserError(f"resnet: depth = {depth} is not 6 n + 2; choose 20 or 56")
    module = CifarResNet(depth)
    # The files predate batch norm's counters, which evaluation never reads.
    counters = {k: v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    load_renamed(module, counters | read_state_dict(Path(path)), str(path))
    return FeatureNetwork(
        module,
        name=f"resnet{depth}",
        image_size=IMAGE_SIZE,
        channels=3,
        normalise=to_imagenet_range,
        device=device,
    )
