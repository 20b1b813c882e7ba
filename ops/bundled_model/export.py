"""Trained heads and tables -> the artifact that ships: python ops/bundled_model/export.py.

Shapes: N texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

import backbone
import class_tables
import concepts
import lexicon
import model
import msgspec
import torch

from worker.artifact.manifest import (
    FORMAT,
    IMAGE_TOWER,
    TEXT_TOWER,
    TOKENIZER,
    Preprocessing,
    default_artifact,
)
from worker.artifact.model_names import MANIFEST
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine, load_module
from worker.export.fast_decode import agreement
from worker.export.tracing import BATCHES, pixels, trace, trace_and_measure
from worker.model.concepts import ConceptModel
from worker.model.efficientnet_lite import SCALES
from worker.model.original import keep
from worker.model.towers import ConceptTower

CARD: Final = "README.md"
LABELS: Final = "labels.txt"
NAME: Final = "wanwu-photo"
NOTICE: Final = (
    "the bundled model knows some 1,500 things by single words. For labels of any other kind, use "
    'Chinese-CLIP: see "Your own model" in the README.'
)
CPU: Final = torch.device("cpu")
_NOTES: Final = ".debug_pkl"
_ITS_OWN: Final = ("version", ".data/serialization_id")


def export(size: str, trained: Path, out: Path) -> None:
    """Write the artifact, keeping the model card that stands beside it."""
    known = concepts.build()
    built = model.build(size, known, trained)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        found = _image(built, fresh) | _texts(known, fresh)
        keep(built, fresh)
        lines = [
            f"{one} < {known.parents[one]}" if one in known.parents else one for one in known.labels
        ]
        (fresh / LABELS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        found["files"] = _files(fresh)
        body = json.dumps(found, ensure_ascii=False, indent=1)
        (fresh / MANIFEST).write_text(body + "\n", encoding="utf-8")
        if (out / CARD).exists():
            shutil.copy(out / CARD, fresh / CARD)
        shutil.rmtree(out, ignore_errors=True)
        fresh.chmod(0o755)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    size_mb = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    print(f"{out}: {size_mb:.1f} MB, {found['parity']}, {found['speed']}")


def _image(built: ConceptModel, directory: Path) -> dict[str, Any]:
    """Trace the image tower; return what the manifest says of it."""
    side = SCALES[built.config.network].side
    spec = Preprocessing(height=side, width=side, mean=backbone.MEAN, std=backbone.STD)
    tower = ConceptTower(built, spec.mean, spec.std).eval()
    images_NCHW = pixels(max(BATCHES), side, side)
    with torch.no_grad():
        reference_ND = tower(images_NCHW)
    traced = trace_and_measure(tower, "fp32", images_NCHW, reference_ND, directory / IMAGE_TOWER)
    if not traced.agrees:
        raise SystemExit(str(traced))
    without_places(directory / IMAGE_TOWER)
    engine = TorchScriptEngine(load_module(directory / IMAGE_TOWER, CPU), CPU, "fp32")
    scaled = agreement(partial(infer, engine), spec)
    return {
        "format": min(1, FORMAT),
        "name": NAME,
        "kind": "zero-shot",
        "source": {"id": "ops/bundled_model", "revision": "1"},
        "preprocessing": msgspec.to_builtins(spec),
        "embedding_dim": traced.dim,
        "logit_scale": built.config.length,
        "max_text_tokens": 1,
        "template": lexicon.TEMPLATE,
        "labels": LABELS,
        "precision": "fp32",
        "batch_shapes": list(BATCHES),
        "parity": traced.parity() | scaled.parity(),
        "fast_decode": scaled.holds,
        "speed": traced.speed(),
        "torch": torch.__version__,
        "notice": NOTICE,
        "lexicon": True,
        "kinds": {one.name: one.parent for one in class_tables.categories() if one.parent},
    }


def _texts(known: concepts.Concepts, directory: Path) -> dict[str, Any]:
    """Save the tokenizer and trace the table of words."""
    reader = lexicon.tokenizer(known.entries)
    (directory / TOKENIZER).parent.mkdir()
    reader.save(str(directory / TOKENIZER))
    texts = [lexicon.TEMPLATE.format(one) for one in known.labels[: max(BATCHES)]]
    encoded = reader.encode_batch(texts)
    ids_NL, mask_NL = (
        torch.tensor([getattr(one, name) for one in encoded]) for name in ("ids", "attention_mask")
    )
    tower = lexicon.LexiconTower(known.entries, len(known.names))
    trace(tower, (ids_NL, mask_NL), tower(ids_NL, mask_NL), directory / TEXT_TOWER)
    without_places(directory / TEXT_TOWER)
    return {}


def without_places(file: Path) -> None:
    """Write a TorchScript file anew without its notes of which source lines it comes from.

    They name folders of the machine that it was made on, and nothing else reads them.
    """
    fresh = file.with_suffix(".fresh")
    reader, writer = (
        torch._C.PyTorchFileReader(str(file)),  # noqa: SLF001 - torch has no other access
        torch._C.PyTorchFileWriter(str(fresh)),  # noqa: SLF001
    )
    for name in reader.get_all_records():
        # The writer adds what it writes of itself.
        if not name.endswith(_NOTES) and name not in _ITS_OWN:
            body = reader.get_record(name)
            writer.write_record(name, body, len(body))
    writer.write_end_of_file()
    fresh.replace(file)


def _files(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="lite2", choices=list(SCALES))
    parser.add_argument("--trained", type=Path, default=Path("trained"))
    parser.add_argument("--out", type=Path, default=default_artifact())
    options = parser.parse_args()
    torch.manual_seed(0)
    export(options.size, options.trained, options.out)
