"""Each family of models answers as transformers does, fed by its own processor and tokenizer."""

from __future__ import annotations

from pathlib import Path

import parity
import pytest
from hub_models import LABELS, edit, save
from more_families import save_more
from sentencepiece import SentencePieceTrainer
from trained import train
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from worker.contract.labels import LabelPack
from worker.errors import ExportError
from worker.labels.encoder import encoder_of
from worker.model.hub import find, load

# Two resizers, Pillow's of timm and torch's here, may round a grey level differently.
MOST = {"timm": 1e-3, "timm_vit": 1e-3}


@pytest.mark.parametrize("family", parity.FAMILIES)
def test_pictures_texts_and_scores_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    directory = parity.save(tmp_path / family, family)
    artifact = parity.export(directory, tmp_path / "artifact")
    found = parity.compare(directory, artifact, parity.pictures(tmp_path))
    assert found.images <= MOST.get(family, 1e-5)
    assert (found.texts or 0) <= 1e-6
    assert found.scores <= MOST.get(family, 1e-5)
    assert artifact.manifest.parity["own_processor_min_cosine"] > 0.9999
    # Where scores are not shares of a softmax, older programs must not read it as if they were.
    is_sigmoid = family in {"siglip", "siglip2", "vit_several"}
    assert artifact.manifest.format == (2 if is_sigmoid else 1)
    assert (artifact.manifest.logit_bias is not None) == is_sigmoid


def test_weights_that_were_trained_answer_so_too(tmp_path: Path) -> None:
    directory = parity.save(tmp_path / "siglip", "siglip")
    assert train(directory, steps=60) > 1 / len(LABELS)
    artifact = parity.export(directory, tmp_path / "artifact")
    found = parity.compare(directory, artifact, parity.pictures(tmp_path))
    assert max(found.images, found.texts or 0, found.scores) <= 1e-5


def test_classes_are_numbered_as_the_config_numbers_them(tmp_path: Path) -> None:
    directory = save_more(tmp_path / "vit", "vit_several")
    artifact = parity.export(directory, tmp_path / "artifact")
    assert encoder_of(artifact, "cpu").encode(LabelPack()).labels == LABELS


def test_more_classes_than_the_weights_have_are_counted(tmp_path: Path) -> None:
    directory = save_more(tmp_path / "vit", "vit_several")
    edit(directory / "config.json", id2label={str(k): f"c{k}" for k in range(20)}, label2id={})
    with pytest.raises(ExportError) as error:
        load(find(str(directory), None, lambda _line: None))
    assert str(error.value) == (
        f"id2label in config.json names 20 classes, and the weights have {len(LABELS)}"
    )


def test_a_directory_that_timm_itself_has_written_can_be_read(tmp_path: Path) -> None:
    directory = save_more(tmp_path / "timm", "timm")
    edit(directory / "config.json", model_args={"num_classes": len(LABELS), "in_chans": 3})
    artifact = parity.export(directory, tmp_path / "artifact")
    assert artifact.manifest.preprocessing.margin == "even"


def test_a_tokenizer_that_reads_otherwise_than_its_file_says_is_followed(tmp_path: Path) -> None:
    directory = save(tmp_path / "siglip", "siglip")
    # This class of transformers reads small letters alone; the file does not say so.
    edit(directory / "tokenizer_config.json", tokenizer_class="Siglip2Tokenizer")
    file = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    assert file("A")["input_ids"] != AutoTokenizer.from_pretrained(directory)("A")["input_ids"]
    artifact = parity.export(directory, tmp_path / "artifact")
    assert (parity.compare(directory, artifact, parity.pictures(tmp_path)).texts or 0) <= 1e-6


def test_a_fast_form_that_splits_texts_otherwise_is_refused(tmp_path: Path) -> None:
    directory = save(tmp_path / "siglip", "siglip")
    with (directory / "spiece.model").open("wb") as file:
        SentencePieceTrainer.Train(
            sentence_iterator=iter(["a photo of a cat", "this is a small dog", *LABELS] * 20),
            model_writer=file,
            vocab_size=40,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    edit(directory / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    with pytest.raises(ExportError, match="fast form splits texts differently"):
        parity.export(directory, tmp_path / "artifact")


def test_pixels_that_the_processor_scales_in_another_way_are_noticed(tmp_path: Path) -> None:
    directory = save(tmp_path / "vit", "vit")
    file = directory / "preprocessor_config.json"
    edit(file, image_mean=[0.1, 0.2, 0.3])
    artifact = parity.export(directory, tmp_path / "artifact")
    assert artifact.manifest.preprocessing.mean == pytest.approx((0.1, 0.2, 0.3))
    found = parity.compare(directory, artifact, parity.pictures(tmp_path))
    assert found.images <= 1e-5
