"""EfficientNet-Lite, for inference: images -> pooled features. Batch norms are in the weights.

Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019; Lite
leaves out squeeze-and-excitation, takes ReLU6, and never scales the first and the last stage.

Shapes: N images, C channels, H x W pixels, F features.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES: Final = 1280
_STEM: Final = 32
_DIVISOR: Final = 8
# Below this share of what was asked for, rounding a width to a multiple of eight goes up.
_LEAST_WIDTH: Final = 0.9


class Scale(NamedTuple):
    """A size of the network: factors of width and depth, and the side of its images in pixels."""

    width: float
    depth: float
    side: int


SCALES: Final = {
    "lite0": Scale(1.0, 1.0, 224),
    "lite1": Scale(1.0, 1.1, 240),
    "lite2": Scale(1.1, 1.2, 260),
}


class _Stage(NamedTuple):
    """Blocks of one width: how many, of which kernel, stride of the first, expansion, channels."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES: Final = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class Padding(NamedTuple):
    """Padding as TensorFlow does it: with stride 2, more at the end than at the start."""

    kernel: int
    stride: int

    def __call__(self, states_NCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return states, and the padding of both sides that the convolution can do by itself."""
        top, bottom = self._of(states_NCHW.shape[-2])
        left, right = self._of(states_NCHW.shape[-1])
        if (left, top) == (right, bottom):
            return states_NCHW, (top, left)
        return F.pad(states_NCHW, (left, right, top, bottom)), (0, 0)

    def _of(self, side: int) -> tuple[int, int]:
        total = max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
        return total // 2, total - total // 2


class Convolution(nn.Conv2d):
    """A convolution that keeps the size, divided by its stride."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__(channels, width, kernel, stride, groups=groups)
        self.padded = Padding(kernel, stride)

    def forward(self, states_NCHW: Tensor) -> Tensor:
        """Pad and convolve."""
        states, padding = self.padded(states_NCHW)
        return F.conv2d(states, self.weight, self.bias, self.stride, padding, 1, self.groups)


class Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; added to what came in if it fits."""

    def __init__(self, channels: int, stage: _Stage, width: int, stride: int) -> None:
        super().__init__()
        wide = channels * stage.expansion
        self.expand: nn.Module = nn.Identity()
        if stage.expansion > 1:
            self.expand = nn.Sequential(Convolution(channels, wide, 1, 1, 1), nn.ReLU6())
        self.filter = Convolution(wide, wide, stage.kernel, stride, wide)
        self.act = nn.ReLU6()
        self.project = Convolution(wide, width, 1, 1, 1)
        self.adds = stride == 1 and channels == width

    def forward(self, states_NCHW: Tensor) -> Tensor:
        """Run the block."""
        wide_NCHW = self.act(self.filter(self.expand(states_NCHW)))
        projected_NCHW: Tensor = self.project(wide_NCHW)
        return projected_NCHW + states_NCHW if self.adds else projected_NCHW


class EfficientNetLite(nn.Module):
    """Scaled images N3HW -> features NF, pooled over the whole image."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.stem = nn.Sequential(Convolution(3, _STEM, 3, 2, 1), nn.ReLU6())
        blocks: list[nn.Module] = []
        channels = _STEM
        for number, stage in enumerate(_STAGES):
            width = _rounded(stage.channels * scale.width)
            edge = number in {0, len(_STAGES) - 1}
            count = stage.blocks if edge else math.ceil(stage.blocks * scale.depth)
            for index in range(count):
                blocks.append(Block(channels, stage, width, 1 if index else stage.stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(Convolution(channels, FEATURES, 1, 1, 1), nn.ReLU6())

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Return the features."""
        states_NCHW: Tensor = self.head(self.blocks(self.stem(images_N3HW)))
        return states_NCHW.mean(dim=(2, 3))


def _rounded(width: float) -> int:
    nearest = max(_DIVISOR, int(width + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return nearest if nearest >= _LEAST_WIDTH * width else nearest + _DIVISOR
