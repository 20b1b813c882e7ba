"""Published weights, drawings, photographs -> heads: python ops/bundled_model/train.py.

The network itself stays as it was published, but for its weights, which are rounded to eight bits
as they ship. Its features of some 250,000 pictures are computed once; the heads over them take a
minute. Afterwards export.py makes the artifact, and evaluate.py its figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import backbone
import class_tables
import drawings
import heads
import photographs
import pictures
import torch
from safetensors.torch import save_file
from torch import Tensor

from worker.model.efficientnet_lite import SCALES, Convolution
from worker.model.packed import pack

VIEWS: Final = 16
ON_PHOTO_VIEWS: Final = 8
ICON_VIEWS: Final = 3
PHOTO_VIEWS: Final = 24
GROUND_VIEWS: Final = 6
HIDDEN: Final = 768
HEADS: Final = "heads.safetensors"
_SHOWN_EVERY: Final = 200
# How much a drawing says of what a photograph shows, against a photograph.
_DRAWINGS_IN_TOPS: Final = 0.3


class Extractor:
    """The network as it ships: pictures of its size in 0..1 -> features."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.classifier = backbone.load(name)
        self.side = SCALES[name].side
        self.device = device
        network = pack(self.classifier.network, Convolution)
        self._network = network.to(memory_format=torch.channels_last).to(device).eval()
        self._mean, self._std = (
            torch.tensor(values, device=device).view(3, 1, 1)
            for values in (backbone.MEAN, backbone.STD)
        )

    @torch.inference_mode()
    def __call__(self, images_N3HW: Tensor) -> Tensor:
        """Return features NF, float16."""
        scaled = (images_N3HW.to(self.device) - self._mean) / self._std
        features: Tensor = self._network(scaled.contiguous(memory_format=torch.channels_last))
        return features.half()

    def all(self, batches: Iterable[tuple[Tensor, Tensor]], what: str) -> tuple[Tensor, Tensor]:
        """Return the features NF of all batches, and their numbers N."""
        rows, numbers, began_s = [], [], time.monotonic()
        for count, (images, picked_B) in enumerate(batches):
            rows.append(self(images))
            numbers.append(picked_B.to(self.device))
            if count % _SHOWN_EVERY == 0:
                print(f"{what}: {count} batches, {time.monotonic() - began_s:.0f} s", flush=True)
        # Out of inference mode, where nothing could learn from them.
        return torch.cat(rows).clone(), torch.cat(numbers).clone()


def train(name: str, cache: Path, out: Path, device: torch.device, share: float) -> None:
    """Compute features and learn the heads; save them under `out`."""
    dice = torch.Generator(device).manual_seed(0)
    extractor = Extractor(name, device)
    views = [max(1, int(share * of)) for of in (VIEWS, ICON_VIEWS, PHOTO_VIEWS, ON_PHOTO_VIEWS)]
    named = pictures.read([*drawings.TRAINING_DESIGNS, *drawings.LINE_DESIGNS], cache)
    shapes = [*drawings.SHAPE_DESIGNS, *drawings.ICON_SETS, *drawings.MORE_ICON_SETS]
    icons = pictures.read(shapes, cache)
    photos = photographs.load(cache)
    drawn_NF, which_N = extractor.all(
        pictures.scenes(named, views[0], extractor.side, dice), "drawings"
    )
    grounds_M3HW = pictures.grounds(photos, GROUND_VIEWS, device)
    on_photos = pictures.scenes(named, views[3], extractor.side, dice, grounds_M3HW)
    on_NF, on_N = extractor.all(on_photos, "drawings on photographs")
    drawn_NF, which_N = torch.cat([drawn_NF, on_NF]), torch.cat([which_N, on_N])
    icon_NF, icon_N = extractor.all(pictures.scenes(icons, views[1], extractor.side, dice), "icons")
    photo_NF, photo_N = extractor.all(
        pictures.cut_outs(photos, views[2], extractor.side, dice), "photographs"
    )
    objects_N = named.object_ids_N.to(device)[which_N]
    categories_N = named.category_ids_N.to(device)[which_N]
    icon_categories_N = icons.category_ids_N.to(device)[icon_N]
    objects = learn_objects(drawn_NF, objects_N)
    found = {
        "hidden": objects.first,
        "objects": objects.second,
        "plainly": learn_plainly(drawn_NF, objects_N),
        "drawn": learn_drawn(drawn_NF, categories_N, icon_NF, icon_categories_N),
        "tops": learn_tops(photo_NF, photo_N, photos, drawn_NF, categories_N),
        "gate": learn_gate(torch.cat([drawn_NF, icon_NF]), photo_NF),
    }
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"{key}.weight": head.weight_OF for key, head in found.items()}
    tensors |= {f"{key}.bias": head.bias_O for key, head in found.items()}
    save_file({key: one.cpu().contiguous() for key, one in tensors.items()}, out / HEADS)


def learn_objects(drawn_NF: Tensor, objects_N: Tensor) -> heads.Deep:
    """Return the layers that name drawings."""
    known = objects_N != pictures.NONE
    targets_N = objects_N[known]
    lesson = heads.Lesson(drawn_NF[known], targets_N, heads.balanced(targets_N, 0.5))
    return heads.learn_deep(lesson, HIDDEN, len(drawings.read_objects()), smooth=0.02)


def learn_plainly(drawn_NF: Tensor, objects_N: Tensor) -> heads.Head:
    """Return one layer that does the same: the two err at different places."""
    known = objects_N != pictures.NONE
    targets_N = objects_N[known]
    lesson = heads.Lesson(drawn_NF[known], targets_N, heads.balanced(targets_N, 0.5))
    return heads.learn(lesson, len(drawings.read_objects()), smooth=0.05)


def learn_drawn(
    drawn_NF: Tensor, categories_N: Tensor, icon_NF: Tensor, icon_categories_N: Tensor
) -> heads.Head:
    """Return the head of a drawing's category: the six, and last, none of them."""
    features_NF = torch.cat([drawn_NF, icon_NF])
    targets_N = torch.cat([categories_N, icon_categories_N])
    targets_N = torch.where(targets_N == pictures.NONE, len(drawings.CATEGORIES), targets_N)
    lesson = heads.Lesson(features_NF, targets_N, heads.balanced(targets_N, 0.5))
    return heads.learn(lesson, len(drawings.CATEGORIES) + 1)


def learn_tops(
    photo_NF: Tensor,
    photo_N: Tensor,
    photos: list[photographs.Photograph],
    drawn_NF: Tensor,
    categories_N: Tensor,
) -> heads.Head:
    """Return the head of a photograph's top category, which drawings teach too; last is none."""
    tops = class_tables.tops()
    places = {name: number for number, name in enumerate(tops)} | {"": len(tops)}
    of_photos = torch.tensor([places[one.category] for one in photos], device=photo_NF.device)
    of_drawings = torch.tensor(
        [places[name] for name in drawings.CATEGORIES], device=photo_NF.device
    )
    known = categories_N != pictures.NONE
    targets_N = torch.cat([of_photos[photo_N], of_drawings[categories_N[known]]])
    weights_N = torch.cat(
        [
            heads.balanced(of_photos[photo_N], 0.5),
            _DRAWINGS_IN_TOPS * heads.balanced(of_drawings[categories_N[known]], 0.7),
        ]
    )
    # Both kinds count by their share, however many pictures there are of each.
    weights_N[: len(photo_N)] *= len(weights_N) / len(photo_N)
    weights_N[len(photo_N) :] *= len(weights_N) / int(known.sum())
    features_NF = torch.cat([photo_NF, drawn_NF[known]])
    return heads.learn(heads.Lesson(features_NF, targets_N, weights_N), len(tops) + 1, smooth=0.05)


def learn_gate(drawn_NF: Tensor, photo_NF: Tensor) -> heads.Head:
    """Return the head whose second output, less its first, says how likely it is a drawing."""
    features_NF = torch.cat([photo_NF, drawn_NF])
    targets_N = torch.zeros(len(features_NF), dtype=torch.long, device=drawn_NF.device)
    targets_N[len(photo_NF) :] = 1
    lesson = heads.Lesson(features_NF, targets_N, heads.balanced(targets_N, 1.0))
    return heads.learn(lesson, 2, smooth=0.02)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="lite2", choices=list(SCALES))
    parser.add_argument("--cache", type=Path, default=Path("drawings"), help="fetched pictures")
    parser.add_argument("--out", type=Path, default=Path("trained"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--share", type=float, default=1.0, help="of all pictures, for a trial")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_device(options.device)
    train(options.size, options.cache, options.out, torch.device(options.device), options.share)
