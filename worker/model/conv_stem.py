"""A convolutional stem for small vision transformers: the bundled model has one.

Shapes: B images, D width, HW pixels.
"""

from __future__ import annotations

from typing import Any, Final, cast

from torch import Tensor, nn

# The field of a vision config that says that a model has it; transformers keeps what it does not
# know.
FIELD: Final = "convolutional_stem"


class Stem(nn.Sequential):
    """Images B x 3 x H x W -> patches B x D x H/16 x W/16, by five small convolutions.

    It replaces the one large convolution by which Chinese-CLIP cuts patches. From scratch, from few
    drawings and in minutes, the large one learns next to nothing: after 160,000 images it named 6 %
    of the drawings. See Xiao et al., "Early convolutions help transformers see better", 2021.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            *_convolution(3, 32, stride=2),
            *_convolution(32, 64, stride=2),
            *_convolution(64, 128, stride=2),
            *_convolution(128, 128, stride=1),
            nn.Conv2d(128, width, 3, stride=2, padding=1, bias=False),
        )

    @property
    def weight(self) -> Tensor:
        """The last convolution's: transformers asks a patch embedding for their type."""
        last = self[-1]
        return cast("nn.Conv2d", last).weight


def has_stem(config: Any) -> bool:
    """Whether a model of this config has a stem."""
    return bool(getattr(getattr(config, "vision_config", None), FIELD, False))


def add_stem(model: Any) -> Any:
    """Put an untrained stem into a Chinese-CLIP, and return it."""
    config = model.config.vision_config
    setattr(config, FIELD, True)
    model.vision_model.embeddings.patch_embedding = Stem(config.hidden_size)
    return model


def _convolution(channels: int, width: int, *, stride: int) -> tuple[nn.Module, ...]:
    layer = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return layer, nn.BatchNorm2d(width), nn.ReLU()
