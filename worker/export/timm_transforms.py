"""timm's transforms, by which transformers prepares images for its models -> preprocessing."""

from __future__ import annotations

from typing import Any, Final

from worker.artifact.manifest import Preprocessing
from worker.contract.i18n import gettext_noop as N_
from worker.errors import ExportError

_KNOWN: Final = frozenset({"Resize", "CenterCrop", "ToTensor", "MaybeToTensor", "Normalize"})


def timm_preprocessing(transforms: Any) -> Preprocessing:
    """Return what a composition of torchvision's transforms does.

    Raises:
        ExportError: it does something that is not known here.
    """
    steps = {type(step).__name__: step for step in transforms.transforms}
    unknown = sorted(steps.keys() - _KNOWN)
    if unknown or not {"Resize", "Normalize"} <= steps.keys():
        raise ExportError(
            N_("the model's images are prepared by timm in a way that is not known here: {steps}"),
            steps=", ".join(unknown or steps),
        )
    resize, normalize = steps["Resize"], steps["Normalize"]
    return Preprocessing(
        **_geometry(resize.size, steps.get("CenterCrop")),
        interpolation=resize.interpolation.value,
        mean=tuple(normalize.mean.tolist()),
        std=tuple(normalize.std.tolist()),
    )


def _geometry(size: Any, crop: Any) -> dict[str, Any]:
    """Return the size of the result and how it comes about; a number is that of the short side."""
    if isinstance(size, int):
        if crop is None or max(crop.size) > size:
            raise ExportError(N_("the model takes images of any shape, which is not known here"))
        height, width = crop.size
        cut = {"resize": "shortest_edge", "edge": size, "margin": "even"}
        return {"height": height, "width": width, **cut}
    height, width = size
    if crop is not None and tuple(crop.size) != (height, width):
        raise ExportError(N_("the model cuts images after squashing them, which is not known here"))
    return {"height": height, "width": width, "resize": "squash"}
