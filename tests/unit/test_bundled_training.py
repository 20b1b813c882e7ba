"""The training of the bundled model's heads, on features that mean nothing."""

from __future__ import annotations

import abstracts
import drawings
import numpy as np
import pytest
import torch
import train
from calibration import best_threshold, macro_f1
from conftest import ROOT
from safetensors import safe_open

from worker.model.efficientnet_lite import FEATURES

SOME = 48


@pytest.fixture
def seen() -> train.Seen:
    dice = torch.Generator().manual_seed(0)
    objects, categories = len(drawings.read_objects()), len(drawings.CATEGORIES)
    of_objects, of_categories, of_icons, of_tops = (
        torch.randint(low, high, (SOME,), generator=dice)
        for low, high in ((0, objects), (-1, categories), (-1, categories), (0, 4))
    )
    drawn_NF, icons_NF, photos_NF, abstract_NF = torch.rand(
        4, SOME, FEATURES, generator=dice
    ).half()
    return train.Seen(
        *(drawn_NF, of_objects, of_categories, icons_NF, of_icons),
        *(photos_NF, of_tops, abstract_NF),
    )


def test_abstract_pictures_are_always_the_same_and_differ_by_seed() -> None:
    first, again = abstracts.batches(len(abstracts.KINDS), 32), abstracts.batches(2, 32)
    pictures_B3HW = torch.cat(list(first))
    assert pictures_B3HW.shape == (len(abstracts.KINDS), 3, 32, 32)
    assert torch.equal(pictures_B3HW[:2], torch.cat(list(again)))
    assert all(not torch.equal(pictures_B3HW[0], other) for other in pictures_B3HW[1:])


def test_training_makes_the_heads_that_ship_in_their_sizes(seen: train.Seen) -> None:
    found = train.learn(seen, steps=1)
    sizes = {f"{name}.weight": list(head.weight_OF.shape) for name, head in found.items()}
    sizes |= {f"{name}.bias": list(head.bias_O.shape) for name, head in found.items()}
    with safe_open(ROOT / "ops/bundled_model/heads.safetensors", "pt") as shipped:
        assert sizes == {key: shipped.get_slice(key).get_shape() for key in shipped.keys()}  # noqa: SIM118


def test_a_trial_takes_one_view_of_each_picture_at_least() -> None:
    assert train.Size(share=0.01).views(16) == 1
    assert train.Size().views(16) == 16


def test_the_best_threshold_separates_what_can_be_separated() -> None:
    truth_NK = np.eye(4, dtype=bool).repeat(25, axis=0)
    scores_NK = np.where(truth_NK, 0.8, 0.3)
    threshold = best_threshold(scores_NK, truth_NK)
    assert 0.3 < threshold <= 0.8
    assert macro_f1(scores_NK, truth_NK, threshold) == 1
    assert macro_f1(scores_NK, truth_NK, 0.9) == 0
