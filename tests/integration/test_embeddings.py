"""Embeddings that were kept: by them tags and searches are what they would be from the images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PATIENCE_S, ROOT, Fleet, environment, run
from records import MODEL, embedding, failed, record

from producer.embeddings.ranking import Ranker, matrix_of, nearest, retagged
from producer.embeddings.retag import retag_table
from producer.embeddings.text_encoder import Embedded
from producer.errors import EncodingError, RecordsError
from producer.formats import open_sink, records_of, target_of
from worker.artifact.manifest import open_artifact
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.scoring import Background, Kinds, Scale
from worker.contract.text_embeddings import Encoded
from worker.labels.label_sets import LabelSet
from worker.pipeline.rank import rank
from worker.service.text_embeddings import encoded

EXAMPLES = ROOT / "ops" / "examples"
LABELS = ("猫", "狗", "汽车", "苹果", "房子", "树", "花", "飞机")
D = 16


def embedded(labels: int) -> Embedded:
    rows_KD = np.random.default_rng(labels).standard_normal((labels, D)).astype(np.float32)
    rows_KD /= np.linalg.norm(rows_KD, axis=1, keepdims=True)
    names = tuple(f"label {k}" for k in range(labels))
    parents = {"label 3": "parent", "parent": "grandparent"}
    encoded = Encoded(
        model=MODEL, kind="zero-shot", dim=D, logit_scale=20.0, labels=names, parents=parents
    )
    return Embedded(encoded, rows_KD.tobytes())


def images(count: int) -> npt.NDArray[np.float16]:
    rows_ND = np.random.default_rng(1).standard_normal((count, D))
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return rows_ND.astype(np.float16)


@pytest.mark.parametrize("background", [0, 7])
@pytest.mark.parametrize(("labels", "top_k"), [(1, 5), (3, 2), (300, 5), (300, 1)])
def test_scores_and_order_are_those_of_a_worker(labels: int, top_k: int, background: int) -> None:
    with_labels, images_ND = embedded(labels), images(50)
    matrix_KD = np.frombuffer(with_labels.matrix, np.float32).reshape(labels, D)
    label_set = LabelSet(with_labels.encoded.labels, matrix_KD, with_labels.encoded.parents)
    if background:
        rows_JD = np.frombuffer(embedded(background).matrix, np.float32).reshape(background, D)
        apart_JK = np.random.default_rng(2).integers(0, 2, (background, labels)).astype(np.float32)
        label_set = label_set._replace(background=Background(rows_JD, apart_JK))
        encoded = msgspec.structs.replace(with_labels.encoded, background=background)
        body = with_labels.matrix + rows_JD.tobytes() + apart_JK.tobytes()
        with_labels = Embedded(encoded, body)
    wanted = rank(images_ND.astype(np.float32), label_set, Scale(20.0), top_k=top_k, threshold=0.02)
    ranker = Ranker(with_labels, top_k=top_k)
    records = iter([record(embedding=embedding(*row)) for row in images_ND.tolist()])
    for found, tags in zip(retagged(records, ranker, "hash", 0.02), wanted, strict=True):
        assert [(tag.label, tag.above) for tag in found.tags] == [(t.label, t.above) for t in tags]
        assert [tag.score for tag in found.tags] == pytest.approx([t.score for t in tags], abs=1e-6)
        assert found.labels == "hash"


def test_the_kinds_of_labels_are_those_of_a_worker() -> None:
    own, artifact = embedded(40), open_artifact()
    matrix_KD = np.frombuffer(own.matrix, np.float32).reshape(40, D)
    apart_KM = np.zeros((40, 2), np.float32)
    apart_KM[39, 0] = apart_KM[0, 1] = 1
    kinds = Kinds(("kind", "label 5"), matrix_KD[[2, 5]], apart_KM)
    found = LabelSet(own.encoded.labels, matrix_KD, {"label 5": "kind"}, kinds=kinds)
    scale = Scale(3.0)
    manifest = msgspec.structs.replace(artifact.manifest, logit_scale=3.0)
    artifact = msgspec.structs.replace(artifact, manifest=manifest)
    ranker = Ranker(Embedded(*encoded(artifact, found)), top_k=2)
    images_ND = images(200)
    best = ranker.rank(images_ND)
    names = [
        [ranker.names[k] for k, score in zip(order, scores, strict=True) if score >= 0]
        for order, scores in zip(best.order_NT.tolist(), best.scores_NT.tolist(), strict=True)
    ]
    wanted = rank(images_ND.astype(np.float32), found, scale, top_k=2, threshold=0)
    assert names == [[tag.label for tag in tags] for tags in wanted]
    assert {len(some) for some in names} == {2, 3}


def test_equal_scores_stand_in_the_order_of_the_labels() -> None:
    same = embedded(1)
    ranker = Ranker(Embedded(embedded(40).encoded, same.matrix * 40), top_k=40)
    assert ranker.rank(images(3)).order_NT.tolist() == [list(range(40))] * 3


def test_failures_stay_as_they_are_whatever_is_beside_them() -> None:
    ranker = Ranker(embedded(4), top_k=1)
    ones = [failed(), record(embedding=embedding(*[0.25] * D)), failed("/2")]
    found = list(retagged(iter(ones), ranker, None, 0.0))
    assert [one.status for one in found] == ["failed", "ok", "failed"]
    assert (found[0], found[2]) == (ones[0], ones[2])
    assert list(retagged(iter(ones[:1]), ranker, None, 0.0)) == ones[:1]


def test_a_table_tells_what_lies_above_its_new_labels_even_if_its_old_tags_could_not(
    tmp_path: Path,
) -> None:
    before, after = tmp_path / "before.parquet", tmp_path / "after.parquet"
    with open_sink(target_of(before, None)) as sink:
        for one in (record(embedding=embedding(*[0.25] * D)), failed()):
            sink.write(one)
    table = pq.read_table(before)
    rows = [[{"label": "猫", "score": 0.5, "parent": None}], []]
    column = pa.array(rows, pa.list_(pa.struct({"label": "str", "score": "f8", "parent": "str"})))
    pq.write_table(table.set_column(table.schema.get_field_index("tags"), "tags", column), before)
    retag_table(before, after, Ranker(embedded(4), top_k=4), labels="hash", threshold=0.0)
    tagged, other = records_of(after)
    assert {tag.label: tag.above for tag in tagged.tags}["label 3"] == ("parent", "grandparent")
    assert (tagged.labels, other.tags) == ("hash", ())


def test_embeddings_of_another_model_or_none_are_refused() -> None:
    encoded = embedded(2).encoded
    with pytest.raises(EncodingError, match="of model other@1"):
        matrix_of([record(model="other@1", embedding=embedding(1))], encoded)
    with pytest.raises(RecordsError, match="submit with embeddings=True"):
        matrix_of([record()], encoded)


def test_the_nearest_of_all_blocks_come_first() -> None:
    text = embedded(1)
    images_ND = images(100)
    scores = images_ND.astype(np.float32) @ np.frombuffer(text.matrix, np.float32)
    blocks = [([str(n) for n in range(a, a + 7)], images_ND[a : a + 7]) for a in range(0, 98, 7)]
    hits = nearest(blocks, text, 5)
    assert [int(hit.path) for hit in hits] == np.argsort(-scores[:98])[:5].tolist()
    assert hits[0].score == pytest.approx(scores[:98].max(), abs=1e-6)
    assert len(nearest(blocks, text, 1000)) == 98


@pytest.fixture(scope="module")
def kept(
    server: EmbeddedRedis, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The examples with their embeddings, as lines and as a table, and one image that failed."""
    directory = tmp_path_factory.mktemp("kept")
    (directory / "bad.jpg").write_bytes(b"no image")
    fleet.start(server.url)
    for ending in ("jsonl", "parquet"):
        done = run(
            *("producer", "submit", str(EXAMPLES), str(directory / "bad.jpg")),
            *("--embeddings", "--label", "猫", "--out", str(directory / f"tags.{ending}")),
            broker_url=server.url,
        )
        assert done.returncode == 3, done.stderr
    return directory, server.url


def tags_of(file: Path) -> dict[str, list[tuple[str, float]]]:
    """Return the tags of each image, from either format."""
    if file.suffix == ".parquet":
        rows: Any = pd.read_parquet(file, columns=["path", "tags"]).to_dict("records")
    else:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["path"]: [(t["label"], t["score"]) for t in row["tags"]] for row in rows}


@pytest.mark.parametrize(
    ("before", "after", "more"),
    [
        ("jsonl", "jsonl", []),
        ("parquet", "csv", []),
        ("parquet", "parquet", ["--calibrated"]),
    ],
)
def test_retag_gives_the_tags_of_a_fresh_run(
    kept: tuple[Path, str], before: str, after: str, more: list[str], tmp_path: Path
) -> None:
    directory, url = kept
    labels = tmp_path / "new.txt"
    labels.write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    fresh, out = tmp_path / "fresh.jsonl", tmp_path / f"new.{after}"
    argv = ("--labels", str(labels), "--threshold", "0.001", *more)
    run("producer", "submit", str(EXAMPLES), *argv, "--out", str(fresh), broker_url=url)
    source = directory / f"tags.{before}"
    # No queue: it must not even ask.
    done = run(
        "producer",
        "retag",
        str(source),
        *argv,
        "--out",
        str(out),
        broker_url="redis://localhost:1",
    )
    # One image had failed before: its record is taken over, and not all are tagged.
    assert done.returncode == 3, done.stderr
    assert "with 8 labels and model wanwu" in done.stderr
    assert "tagged 24 images" in done.stderr
    assert "1 images failed before: their records were taken over as they are" in done.stderr
    if after == "csv":
        assert len(pd.read_csv(out)) == 25
        return
    found, wanted = tags_of(out), tags_of(fresh)
    assert found.pop(str(directory / "bad.jpg")) == []
    assert set(found) == set(wanted)
    for path, tags in wanted.items():
        scores = dict(found[path])
        for label, score in tags:
            assert scores.get(label, 0.001) == pytest.approx(score, abs=1e-3), (path, label)


def test_search_finds_what_a_text_says(kept: tuple[Path, str]) -> None:
    argv = ("一只猫", "--top", "3")
    done = run("producer", "search", str(kept[0] / "tags.parquet"), *argv)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    as_json = run("producer", "search", str(kept[0] / "tags.jsonl"), *argv, "--json")
    hits = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [f"{hit['score']:.3f}  {hit['path']}" for hit in hits] == [
        f"{float(line.split()[0]):.3f}  {line.split(maxsplit=1)[1]}" for line in lines
    ]
    assert hits[0]["score"] > hits[2]["score"]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_retag_says_what_no_label_suits(kept: tuple[Path, str], form: str, tmp_path: Path) -> None:
    argv = (
        "--label",
        "猫",
        "--label",
        "狗",
        "--threshold",
        "1",
        "--out",
        str(tmp_path / f"t.{form}"),
    )
    done = run("producer", "retag", str(kept[0] / "tags.parquet"), *argv)
    assert "24 images have no tag: no label reached the threshold" in done.stderr


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_search_gives_programs_the_names_that_are_on_disk(
    kept: tuple[Path, str], form: str, tmp_path: Path
) -> None:
    name, file = os.fsdecode(b"/caf\xe9\t.jpg"), tmp_path / f"odd.{form}"
    images = (one for one in records_of(kept[0] / "tags.parquet") if one.embedding)
    with open_sink(target_of(file, None)) as sink:
        sink.write(msgspec.structs.replace(next(images), path=name))
    done = subprocess.run(
        [sys.executable, "-m", "producer.cli", "search", str(file), "猫"],
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.partition(b"  ")[2] == b"/caf\xe9\t.jpg\n"


def test_a_worker_that_is_online_embeds_the_text(kept: tuple[Path, str]) -> None:
    source = str(kept[0] / "tags.parquet")
    alone = run("producer", "search", source, "一只猫", "--top", "3")
    # Whoever were to load that model would fail.
    asked = run(
        *("producer", "search", source, "一只猫", "--top", "3"),
        broker_url=kept[1],
        model="/nowhere",
    )
    assert asked.stdout == alone.stdout


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["retag", "{plain}", "--label", "猫", "--out", "{out}"], "submit with --embeddings"),
        (["search", "{plain}", "猫"], "submit with --embeddings"),
        (["retag", "{kept}", "--label", "x", "--out", "{kept}"], "is the input"),
        (["search", "{kept}", "x", "--model", "{out}"], "no model"),
        (["search", "{kept}", " "], "the text to search for is blank"),
        (["retag", "{kept}", "--label", "x", "--template", "y"], "must hold {{}} exactly once"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    kept: tuple[Path, str], argv: list[str], reason: str, tmp_path: Path
) -> None:
    plain, out = tmp_path / "plain.parquet", tmp_path / "out.parquet"
    with open_sink(target_of(plain, None)) as sink:
        sink.write(record())
    places = {"plain": plain, "out": out, "kept": kept[0] / "tags.parquet"}
    done = run("producer", *(word.format(**places) for word in argv))
    assert done.returncode in {1, 2}
    assert reason.format() in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
