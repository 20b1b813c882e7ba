"""Token merging (ToMe) in a ViT of B/16's size: how much faster. A spike; the product has none.

After the attention of each layer the tokens that are most like another are merged with it (Bolya
et al., "Token Merging: your ViT but faster", 2023); merged tokens weigh as many as they are. What
that costs in agreement only trained weights can tell, and no trained ViT was at hand: of random
ones the cosine is shown for completeness.

    python ops/bench/token_merging.py --merged 0 4 8 12

Shapes: B images, L tokens, D width, H heads, E = D / H, M tokens that may be merged.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from statistics import median
from typing import Any, Final

import torch
import torch.nn.functional as F
from int8_weights import clip
from torch import Tensor, nn

from worker.engines.base import device_name

_ROUNDS: Final = 9
_BATCH: Final = 2


class Sizes:
    """How many patches each token stands for, B x L x 1, while a batch goes through the layers."""

    def __init__(self) -> None:
        self.sizes_BL1: Tensor | None = None


class MergingLayer(nn.Module):
    """A layer of a rewritten CLIP tower that hands on `merged` tokens fewer."""

    def __init__(self, layer: Any, merged: int, sizes: Sizes, *, is_first: bool) -> None:
        super().__init__()
        self.layer, self.merged, self.sizes, self.is_first = layer, merged, sizes, is_first

    def forward(self, states_BLD: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attend, merge, and go through the two linear layers."""
        layer, attention = self.layer, self.layer.self_attn
        B, L, _D = states_BLD.shape
        if self.is_first or self.sizes.sizes_BL1 is None:
            self.sizes.sizes_BL1 = states_BLD.new_ones(B, L, 1)
        sizes_BL1 = self.sizes.sizes_BL1
        qkv = attention.qkv(layer.layer_norm1(states_BLD)).view(B, L, 3, -1, attention.head_dim)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = sizes_BL1.log()[:, None, None, :, 0].expand(B, 1, L, L)
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask, scale=1.0)
        states_BLD = states_BLD + attention.out(mixed.transpose(1, 2).reshape(B, L, -1))
        states_BLD, self.sizes.sizes_BL1 = merge(
            states_BLD, keys.mean(dim=1), sizes_BL1, self.merged
        )
        out: Tensor = states_BLD + layer.mlp(layer.layer_norm2(states_BLD))
        return out


def merge(
    states_BLD: Tensor, keys_BLE: Tensor, sizes_BL1: Tensor, merged: int
) -> tuple[Tensor, Tensor]:
    """Merge tokens of even places with those of odd ones whose keys are nearest; not the first."""
    keys = F.normalize(keys_BLE, dim=-1)
    likeness = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    likeness[:, 0] = -torch.inf
    best, partner = likeness.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)[..., None]
    # In their places, as before: the first stays the first.
    gone, kept = order[:, :merged], order[:, merged:].sort(dim=1).values
    partner = partner[..., None].gather(1, gone)

    def joined(weighted: Tensor) -> Tensor:
        even, odd = weighted[:, ::2], weighted[:, 1::2]
        width = weighted.shape[-1]
        moved = even.gather(1, gone.expand(-1, -1, width))
        odd = odd.scatter_add(1, partner.expand(-1, -1, width), moved)
        return torch.cat([even.gather(1, kept.expand(-1, -1, width)), odd], dim=1)

    sizes = joined(sizes_BL1)
    return joined(states_BLD * sizes_BL1) / sizes, sizes


def merging(tower: nn.Module, merged: int) -> nn.Module:
    """Return a copy of a tower whose layers merge, but for the last."""
    tower = copy.deepcopy(tower)
    sizes, kinds = Sizes(), tower
    layers: Any = next(one for one in kinds.modules() if isinstance(one, nn.ModuleList))
    for place in range(len(layers) - 1):
        layers[place] = MergingLayer(layers[place], merged, sizes, is_first=place == 0)
    return tower


def main() -> None:
    """Measure each number of merged tokens in turns with none."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--merged", nargs="*", type=int, default=[0, 4, 8, 12])
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain, _calibrated_on, views = clip(outliers=True)
    batch = views[:_BATCH]
    towers = {"plain": plain} | {str(one): merging(plain, one) for one in options.merged}
    times: dict[str, list[float]] = {name: [] for name in towers}
    with torch.inference_mode():
        rows = {name: one(batch) for name, one in towers.items()}
        for _round in range(_ROUNDS):
            for name, one in towers.items():
                began_s = time.process_time()
                one(batch)
                times[name].append(time.process_time() - began_s)
    for name in towers:
        ratios = sorted(a / b for a, b in zip(times["plain"], times[name], strict=True))
        found = {
            "merged_a_layer": name,
            "times_as_fast": [round(ratios[place], 2) for place in (_ROUNDS // 2, 0, -1)],
            "ms_an_image": round(1000 * median(times[name]) / _BATCH, 1),
            "cosine": round(float(F.cosine_similarity(rows[name], rows["plain"]).min()), 4),
        }
        print(json.dumps(found), flush=True)
    print(device_name(torch.device("cpu")))


if __name__ == "__main__":
    main()
