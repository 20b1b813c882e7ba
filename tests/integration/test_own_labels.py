"""A Chinese model without labels: whoever submits without labels reads which ones are used."""

from __future__ import annotations

from pathlib import Path

from conftest import ROOT, Fleet
from serving import serving
from tiny_model import build

from producer import Client
from worker.contract.local.redis_server import EmbeddedRedis

CAT = ROOT / "ops" / "examples" / "猫.jpg"
NOTE = "has no labels of its own: the vocabulary general ("


def test_a_job_without_labels_is_tagged_by_the_vocabulary_and_says_so(
    server: EmbeddedRedis, fleet: Fleet, tmp_path: Path
) -> None:
    model = build(tmp_path / "tiny", labels=None)
    # It has encoded nothing before.
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    worker = fleet.start(server.url, model=str(model), image_roots=str(ROOT), variables=cache)
    assert "labels.vocabulary" in worker.text
    assert "jobs without labels get these" in worker.text
    with serving(server.url, tmp_path / "log") as address:
        for url in (server.url, address):
            notes: list[str] = []
            with Client(url, on_note=notes.append) as client:
                (found,) = client.tag(CAT)
                assert found.tags
                assert found.labels is None
                assert len([note for note in notes if NOTE in note]) == 1
                notes.clear()
                (found,) = client.tag(CAT, ["红", "蓝"])
                assert {tag.label for tag in found.tags} == {"红", "蓝"}
                assert not [note for note in notes if NOTE in note]
    # Few of its labels can be read by so small a tokenizer; the others are left out.
    assert "labels.encoded" in worker.text
    assert "labels.left_out" in worker.text
    with Client(server.url) as client:
        assert max(job.labels for job in client.status().jobs) > 2
