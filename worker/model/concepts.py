"""Images -> how likely each of some fifteen hundred concepts is: the bundled model's image tower.

A photograph and a drawing of a cat have little in common, so two sets of heads over the same
features name them, and a gate mixes what they say. One more head says whether there is anything to
name: on a gradient there is not, and all concepts are alike. An embedding holds the logarithm of
each concept's probability, a place for words that it does not know, and one more number that brings
every row to the same length. So the cosine with a concept's own unit vector, times the logit scale,
is that logarithm exactly, and softmax over any labels is their share of the probability.

Shapes: N images, F features, K classes, H hidden, O drawn objects, T top categories, P those of
them that drawings have, C concepts, D = C + 2.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worker.model.efficientnet_lite import FEATURES, SCALES, Convolution, EfficientNetLite
from worker.model.packed import PackedLinear, pack

MODEL_TYPE: Final = "wanwu_concepts"
_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.safetensors"
# Below it all concepts are equally unlikely.
_LEAST: Final = 1e-7
# What is about as likely as not to be looked at lies near zero, so that rows are short and the
# cosine of two images says what they have in common.
_SHIFT: Final = 11.5
# Of four images that come, about one is a drawing; the gate has learnt from as many of each.
_DRAWN_ODDS: Final = 0.3
# Of five images, one shows nothing that has a name; the head has learnt from as many of each.
_NOTHING_ODDS: Final = 0.25
# A photograph's top category: half by its classes, evened out, for there are 400 of animals and 18
# of plants; a quarter by a head of its own, and a quarter by what a drawing like it would show.
_EVEN: Final = 0.5
_BY_CLASSES, _BY_HEAD, _BY_DRAWINGS = 0.5, 0.25, 0.25
# Drawings name what none of the classes is, so they have a say in photographs too.
_NAMED_BY_DRAWINGS: Final = 0.1
_OWN_SHARE_DRAWN: Final = 0.3


class ConceptConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and tables. `shown`, `drawn`: a class, or an object, a concept of it, by what share.

    The first concepts are the classes, then come the top categories. `drawn_tops` are the top
    categories, by number, that the drawn head tells apart; its last output is none of them.
    `length` is that of every row, and the logit scale.
    """

    model_type: str = MODEL_TYPE
    network: str
    classes: int
    tops: int
    objects: int
    hidden: int
    concepts: int
    shown: tuple[tuple[int, int, float], ...]
    drawn: tuple[tuple[int, int, float], ...]
    drawn_tops: tuple[int, ...]
    length: float

    @property
    def dim(self) -> int:
        """D: the concepts, the place of unknown words, and what brings rows to their length."""
        return self.concepts + 2


class ConceptModel(nn.Module):
    """Scaled images N3HW -> rows ND of length 1, float32 whatever the network computes in."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.config = config
        self.network = pack(EfficientNetLite(SCALES[config.network]), Convolution)
        self.readout = Readout(config)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Embed images."""
        laid_out = images_N3HW.contiguous(memory_format=torch.channels_last)
        features_NF: Tensor = self.network(laid_out)
        rows_ND: Tensor = self.readout(features_NF.to(torch.float32))
        return rows_ND


class Readout(nn.Module):
    """Features NF -> rows ND of length 1."""

    sizes_T: Tensor

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.classes = PackedLinear(config.classes, FEATURES)
        self.hidden = PackedLinear(config.hidden, FEATURES)
        self.objects = PackedLinear(config.objects, config.hidden)
        self.plainly = PackedLinear(config.objects, FEATURES)
        self.drawn = PackedLinear(len(config.drawn_tops) + 1, FEATURES)
        self.tops = PackedLinear(config.tops + 1, FEATURES)
        self.gate = PackedLinear(2, FEATURES)
        self.nothing = PackedLinear(2, FEATURES)
        self._config = config
        self._tops = slice(config.classes, config.classes + config.tops)
        self.shown = Sums(config.shown, config.concepts)
        self.drawings = Sums(config.drawn, config.concepts)
        owners = torch.tensor([concept for _, concept, _ in config.shown])
        sizes = owners.bincount(minlength=config.concepts)[self._tops]
        self.register_buffer("sizes_T", sizes.clamp(min=1).float(), persistent=False)

    def forward(self, features_NF: Tensor) -> Tensor:
        """Return the rows."""
        drawn_N1 = _second(self.gate(features_NF), _DRAWN_ODDS)
        nothing_N1 = _second(self.nothing(features_NF), _NOTHING_ODDS)
        if_drawn_NC = self._drawn(features_NF)
        if_shown_NC = self._photographed(features_NF, if_drawn_NC)
        likely_NC = (1 - drawn_N1) * if_shown_NC + drawn_N1 * if_drawn_NC
        # Where there is nothing to name, every concept is as likely as any other.
        likely_NC = (1 - nothing_N1) * likely_NC + nothing_N1 / self._config.concepts
        return self._rows(torch.log(likely_NC + _LEAST) + _SHIFT)

    def _photographed(self, features_NF: Tensor, if_drawn_NC: Tensor) -> Tensor:
        """Return the probability of each concept if it is a photograph."""
        likely_NC = self.shown(torch.softmax(self.classes(features_NF), dim=-1))
        even_NT = likely_NC[:, self._tops] / self.sizes_T**_EVEN
        even_NT = even_NT / even_NT.sum(dim=-1, keepdim=True)
        own_NT = torch.softmax(self.tops(features_NF), dim=-1)[:, :-1]
        tops_NT = _BY_CLASSES * even_NT + _BY_HEAD * own_NT
        tops_NT = tops_NT + _BY_DRAWINGS * if_drawn_NC[:, self._tops]
        likely_NC = (1 - _NAMED_BY_DRAWINGS) * likely_NC + _NAMED_BY_DRAWINGS * if_drawn_NC
        return self._with_tops(likely_NC, tops_NT)

    def _drawn(self, features_NF: Tensor) -> Tensor:
        """Return the probability of each concept if it is a drawing."""
        hidden_NH = torch.relu(self.hidden(features_NF))
        # A deep and a plain head, already weighed, are added up: they err at different places.
        logits_NO = self.objects(hidden_NH) + self.plainly(features_NF)
        likely_NC = self.drawings(torch.softmax(logits_NO, dim=-1))
        own_NP = torch.softmax(self.drawn(features_NF), dim=-1)[:, :-1]
        parts = list(likely_NC[:, self._tops].unbind(dim=-1))
        for place, top in enumerate(self._config.drawn_tops):
            own_N = own_NP[:, place]
            parts[top] = (1 - _OWN_SHARE_DRAWN) * parts[top] + _OWN_SHARE_DRAWN * own_N
        return self._with_tops(likely_NC, torch.stack(parts, dim=-1))

    def _with_tops(self, likely_NC: Tensor, tops_NT: Tensor) -> Tensor:
        before, after = likely_NC[:, : self._tops.start], likely_NC[:, self._tops.stop :]
        return torch.cat([before, tops_NT, after], dim=-1)

    def _rows(self, logits_NC: Tensor) -> Tensor:
        """Add the unknown, shorten what is too long, and bring all to length 1."""
        unknown_N1 = torch.full_like(logits_NC[:, :1], _SHIFT) + torch.log(
            torch.full_like(logits_NC[:, :1], _LEAST)
        )
        rows_ND = torch.cat([logits_NC, unknown_N1], dim=-1) / self._config.length
        squared_N1 = rows_ND.square().sum(dim=-1, keepdim=True)
        rows_ND = rows_ND / squared_N1.sqrt().clamp(min=1)
        rest_N1 = (1 - squared_N1).clamp(min=0).sqrt()
        return torch.cat([rows_ND, rest_N1], dim=-1)


def _second(logits_N2: Tensor, odds: float) -> Tensor:
    """Return the probability of the second of two outputs, N1, whose prior odds these are."""
    return torch.sigmoid(logits_N2[:, 1:] - logits_N2[:, :1] + math.log(odds))


class Sums(nn.Module):
    """Values of some things -> for each concept the sum of the shares that belong to it."""

    things: Tensor
    owners: Tensor
    shares: Tensor

    def __init__(self, pairs: tuple[tuple[int, int, float], ...], concepts: int) -> None:
        super().__init__()
        things, owners, shares = zip(*pairs, strict=True)
        for name, values in (("things", things), ("owners", owners), ("shares", shares)):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self._concepts = concepts

    def forward(self, values_NM: Tensor) -> Tensor:
        """Return the sums NC."""
        picked = values_NM.index_select(1, self.things) * self.shares
        empty_NC = values_NM[:, :1].expand(-1, self._concepts) * 0
        return empty_NC.index_add(1, self.owners, picked)


def save(model: ConceptModel, directory: Path) -> None:
    """Write config and weights."""
    directory.mkdir(parents=True, exist_ok=True)
    body = json.dumps(msgspec.to_builtins(model.config), separators=(",", ":"))
    (directory / _CONFIG).write_text(body + "\n", encoding="utf-8")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, directory / _WEIGHTS)
    # safetensors writes for its owner alone; workers run as other users.
    (directory / _WEIGHTS).chmod(0o644)


def is_one(directory: Path) -> bool:
    """Whether the config of a directory is of such a model."""
    try:
        body = (directory / _CONFIG).read_bytes()
        return bool(msgspec.json.decode(body, type=_Type).model_type == MODEL_TYPE)
    except (OSError, msgspec.MsgspecError):
        return False


class _Type(msgspec.Struct):
    model_type: str = ""


def load(directory: Path) -> ConceptModel:
    """Load such a model, in float32 on the CPU.

    Raises:
        OSError, msgspec.MsgspecError, RuntimeError, safetensors.SafetensorError: it is damaged.
    """
    config = msgspec.json.decode((directory / _CONFIG).read_bytes(), type=ConceptConfig)
    model = ConceptModel(config)
    model.load_state_dict(load_file(directory / _WEIGHTS))
    return model.eval().requires_grad_(requires_grad=False)
