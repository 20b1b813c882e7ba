"""Published weights, drawings, photographs -> heads: python ops/bundled_model/train.py.

The network itself stays as it was published, but for its weights, which are rounded to eight bits
as they ship. Its features of some 123,000 pictures are computed once, and the heads learn from
them. Afterwards export.py makes the artifact, and evaluate.py its figures. The model card says how
the heads that ship differ from what this makes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import abstracts
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
ABSTRACTS: Final = 2400
HIDDEN: Final = 768
HEADS: Final = "heads.safetensors"
_SHOWN_EVERY: Final = 200
# How much a drawing says of what a photograph shows, against a photograph.
_DRAWINGS_IN_TOPS: Final = 0.3
NO_NUMBERS: Final = torch.zeros(0, dtype=torch.long)


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


class Size(NamedTuple):
    """How large a run is: of the views their share, of the drawings each n-th, and steps.

    The whole is `Size()`; less of it proves that everything runs, and gives poor heads.
    """

    share: float = 1.0
    every: int = 1
    steps: int = heads.STEPS

    def views(self, whole: int) -> int:
        """Return how many views of each picture, one at least."""
        return max(1, round(self.share * whole))


class Seen(NamedTuple):
    """Features of pictures, and of what they are; categories of drawings may be NONE.

    On abstract pictures nothing has a name.
    """

    drawn_NF: Tensor
    objects_N: Tensor
    categories_N: Tensor
    icons_NF: Tensor
    icon_categories_N: Tensor
    photos_NF: Tensor
    tops_N: Tensor
    abstract_NF: Tensor


def train(extractor: Extractor, cache: Path, out: Path, size: Size) -> None:
    """Compute features and learn the heads; save them under `out`."""
    found = learn(look(extractor, cache, size), size.steps)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"{key}.weight": head.weight_OF for key, head in found.items()}
    tensors |= {f"{key}.bias": head.bias_O for key, head in found.items()}
    save_file({key: one.cpu().contiguous() for key, one in tensors.items()}, out / HEADS)


def look(extractor: Extractor, cache: Path, size: Size) -> Seen:
    """Return the features of all pictures, which are fetched first if the cache lacks them."""
    device, side = extractor.device, extractor.side
    dice = torch.Generator(device).manual_seed(0)
    named = pictures.read([*drawings.TRAINING_DESIGNS, *drawings.LINE_DESIGNS], cache, size.every)
    shapes = [*drawings.SHAPE_DESIGNS, *drawings.ICON_SETS, *drawings.MORE_ICON_SETS]
    icons = pictures.read(shapes, cache, size.every)
    photos = photographs.load(cache)[:: size.every]
    print(len(named.object_ids_N), "drawings", len(icons.object_ids_N), "icons", len(photos))
    plain_NF, plain_N = extractor.all(
        pictures.scenes(named, size.views(VIEWS), side, dice), "drawings"
    )
    grounds_M3HW = pictures.grounds(photos, size.views(GROUND_VIEWS), device)
    on_photos = pictures.scenes(named, size.views(ON_PHOTO_VIEWS), side, dice, grounds_M3HW)
    on_NF, on_N = extractor.all(on_photos, "drawings on photographs")
    which_N = torch.cat([plain_N, on_N])
    icons_NF, icon_N = extractor.all(
        pictures.scenes(icons, size.views(ICON_VIEWS), side, dice), "icons"
    )
    photos_NF, photo_N = extractor.all(
        pictures.cut_outs(photos, size.views(PHOTO_VIEWS), side, dice), "photographs"
    )
    abstract_NF, _ = extractor.all(
        ((images, NO_NUMBERS) for images in abstracts.batches(size.views(ABSTRACTS), side)),
        "abstract pictures",
    )
    return Seen(
        torch.cat([plain_NF, on_NF]),
        named.object_ids_N.to(device)[which_N],
        named.category_ids_N.to(device)[which_N],
        icons_NF,
        icons.category_ids_N.to(device)[icon_N],
        photos_NF,
        _top_ids(photos).to(device)[photo_N],
        abstract_NF,
    )


def learn(seen: Seen, steps: int) -> dict[str, heads.Head]:
    """Return all heads by name."""
    objects = learn_objects(seen, steps)
    return {
        "hidden": objects.first,
        "objects": objects.second,
        "plainly": learn_plainly(seen, steps),
        "drawn": learn_drawn(seen, steps),
        "tops": learn_tops(seen, steps),
        "gate": learn_gate(seen, steps),
        "nothing": learn_nothing(seen, steps),
    }


def learn_objects(seen: Seen, steps: int) -> heads.Deep:
    """Return the layers that name drawings."""
    known = seen.objects_N != pictures.NONE
    targets_N = seen.objects_N[known]
    lesson = heads.Lesson(seen.drawn_NF[known], targets_N, heads.balanced(targets_N, 0.5))
    objects = len(drawings.read_objects())
    return heads.learn_deep(lesson, HIDDEN, objects, smooth=0.02, steps=steps)


def learn_plainly(seen: Seen, steps: int) -> heads.Head:
    """Return one layer that does the same: the two err at different places."""
    known = seen.objects_N != pictures.NONE
    targets_N = seen.objects_N[known]
    lesson = heads.Lesson(seen.drawn_NF[known], targets_N, heads.balanced(targets_N, 0.5))
    return heads.learn(lesson, len(drawings.read_objects()), smooth=0.05, steps=steps)


def learn_drawn(seen: Seen, steps: int) -> heads.Head:
    """Return the head of a drawing's category: the six, and last, none of them."""
    features_NF = torch.cat([seen.drawn_NF, seen.icons_NF])
    targets_N = torch.cat([seen.categories_N, seen.icon_categories_N])
    targets_N = torch.where(targets_N == pictures.NONE, len(drawings.CATEGORIES), targets_N)
    lesson = heads.Lesson(features_NF, targets_N, heads.balanced(targets_N, 0.5))
    return heads.learn(lesson, len(drawings.CATEGORIES) + 1, steps=steps)


def learn_tops(seen: Seen, steps: int) -> heads.Head:
    """Return the head of a photograph's top category, which drawings teach too; last is none."""
    tops = class_tables.tops()
    of_drawings = torch.tensor([tops.index(one) for one in drawings.CATEGORIES])
    known = seen.categories_N != pictures.NONE
    drawn_tops_N = of_drawings.to(seen.categories_N.device)[seen.categories_N[known]]
    photo_weights_N = heads.balanced(seen.tops_N, 0.5)
    drawn_weights_N = _DRAWINGS_IN_TOPS * heads.balanced(drawn_tops_N, 0.7)
    # Both kinds count by their share, however many pictures there are of each.
    both = len(photo_weights_N) + len(drawn_weights_N)
    weights_N = torch.cat(
        [
            photo_weights_N * both / len(photo_weights_N),
            drawn_weights_N * both / len(drawn_weights_N),
        ]
    )
    features_NF = torch.cat([seen.photos_NF, seen.drawn_NF[known]])
    lesson = heads.Lesson(features_NF, torch.cat([seen.tops_N, drawn_tops_N]), weights_N)
    return heads.learn(lesson, len(tops) + 1, smooth=0.05, steps=steps)


def learn_gate(seen: Seen, steps: int) -> heads.Head:
    """Return the head whose second output, less its first, says how likely it is a drawing."""
    features_NF = torch.cat([seen.photos_NF, seen.drawn_NF, seen.icons_NF])
    targets_N = torch.ones(len(features_NF), dtype=torch.long, device=features_NF.device)
    targets_N[: len(seen.photos_NF)] = 0
    lesson = heads.Lesson(features_NF, targets_N, heads.balanced(targets_N, 1.0))
    return heads.learn(lesson, 2, smooth=0.02, steps=steps)


def learn_nothing(seen: Seen, steps: int) -> heads.Head:
    """Return the head whose second output, less its first, says that nothing has a name.

    Abstract pictures count as much as all that show something: photographs as much as drawings.
    """
    shown_NF = seen.photos_NF[seen.tops_N != len(class_tables.tops())]
    kinds = [(seen.abstract_NF, 1, 0.5), (shown_NF, 0, 0.25), (seen.drawn_NF, 0, 0.25)]
    device = seen.drawn_NF.device
    lesson = heads.Lesson(
        torch.cat([rows for rows, _, _ in kinds]),
        torch.cat([torch.full((len(rows),), target, device=device) for rows, target, _ in kinds]),
        torch.cat(
            [torch.full((len(rows),), share / len(rows), device=device) for rows, _, share in kinds]
        ),
    )
    weights_N = lesson.weights_N / lesson.weights_N.mean()
    return heads.learn(lesson._replace(weights_N=weights_N), 2, smooth=0.02, steps=min(steps, 800))


def _top_ids(photos: list[photographs.Photograph]) -> Tensor:
    tops = class_tables.tops()
    places = {name: number for number, name in enumerate(tops)} | {"": len(tops)}
    return torch.tensor([places[one.category] for one in photos])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="lite2", choices=list(SCALES))
    parser.add_argument("--cache", type=Path, default=Path("drawings"), help="fetched pictures")
    parser.add_argument("--out", type=Path, default=Path("trained"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    trial = parser.add_argument_group("a trial, whose heads are poor")
    trial.add_argument("--share", type=float, default=1.0, help="of the views of each picture")
    trial.add_argument("--every", type=int, default=1, help="take each n-th picture alone")
    trial.add_argument("--steps", type=int, default=heads.STEPS, help="of learning, each head")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_device(options.device)
    train(
        Extractor(options.size, torch.device(options.device)),
        options.cache,
        options.out,
        Size(options.share, options.every, options.steps),
    )
