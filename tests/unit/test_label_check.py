"""Labels that a model cannot read or tell apart, by its tokenizer and by their embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from worker.contract.i18n import in_language
from worker.contract.label_check import LabelCheck, named, named_groups
from worker.contract.labels import LabelPack
from worker.labels.distinct import LabelReader, alike_embeddings
from worker.labels.lexicon import nearest_words

LENGTH = 8


def reader(model: models.Model) -> LabelReader:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    return LabelReader(tokenizer)


@pytest.fixture(scope="module")
def chinese() -> LabelReader:
    """Like BERT's: knows some characters, and words of another script not at all."""
    tokens = ["[PAD]", "[UNK]", *"猫狗红花小这张的照片"]
    return reader(models.WordPiece({word: n for n, word in enumerate(tokens)}, unk_token="[UNK]"))


@pytest.fixture(scope="module")
def sentencepiece() -> LabelReader:
    pieces = [("<unk>", 0.0), ("猫", -1.0), ("cat", -1.0)]
    return reader(models.Unigram(pieces, 0, byte_fallback=False))


def check(reader: LabelReader, *labels: str, template: str = "{}", **more: object) -> LabelCheck:
    return reader.check(LabelPack(labels, **more), (template,))  # type: ignore[arg-type]


def sentences(found: LabelCheck) -> str:
    return " / ".join(one.english for one in (*found.refusals, *found.warnings))


def test_labels_that_can_be_read_and_differ_are_fine(chinese: LabelReader) -> None:
    assert check(chinese, "猫", "狗", "小狗", "红花") == LabelCheck()


@pytest.mark.parametrize("labels", [("cat", "dog"), ("🎉",), ("猫", "Zürich")])
def test_a_label_of_which_no_word_is_known_is_named(
    chinese: LabelReader, labels: tuple[str, ...]
) -> None:
    unknown = ", ".join(label for label in labels if label != "猫")
    found = check(chinese, *labels, template="这张{}的照片")
    assert f"knows no word of these labels, so it would score them all alike: {unknown};" in (
        sentences(found)
    )


def test_an_alias_that_is_known_is_enough_and_the_rest_is_named(chinese: LabelReader) -> None:
    found = check(chinese, "cat", "狗", aliases={"cat": ("猫",)})
    assert found.refusals == []
    assert sentences(found).endswith("so their scores say less: cat (cat)")


def test_the_words_that_are_not_known_are_named(chinese: LabelReader) -> None:
    found = check(chinese, "Q版小猫", "狗 XXL 红", "花")
    assert found.refusals == []
    assert sentences(found).endswith("so their scores say less: Q版小猫 (Q, 版), 狗 XXL 红 (XXL)")


def test_labels_that_end_in_the_same_tokens_are_named_together(chinese: LabelReader) -> None:
    # By unknown tokens, by the tokenizer's own normalisation, and cut at the model's length.
    found = check(chinese, "猫A", "猫B", "小 狗", "小狗", "花" * 8 + "猫", "花" * 9, "红")
    assert "as the same, so it would score them alike: 猫A = 猫B, 小 狗 = 小狗, 花" in sentences(
        found
    )
    assert found.alike.count == 3


def test_the_prompt_counts_when_a_label_is_cut(chinese: LabelReader) -> None:
    labels = ("小小小小花", "小小小小猫")
    assert check(chinese, *labels) == LabelCheck()
    assert check(chinese, *labels, template="这张照片的{}").alike.count == 1


def test_tokenizers_of_sentencepiece_are_asked_too(sentencepiece: LabelReader) -> None:
    assert check(sentencepiece, "dog", "猫").unread.first == ("dog",)
    assert check(sentencepiece, "Cat", "cat").alike.first == ("Cat = cat",)


def test_equal_embeddings_are_grouped_however_far_apart() -> None:
    dice = np.random.default_rng(0)
    rows_KD = dice.standard_normal((2100, 8)).astype(np.float32)
    rows_KD /= np.linalg.norm(rows_KD, axis=1, keepdims=True)
    rows_KD[[700, 2050]] = rows_KD[3]
    rows_KD[1500] = rows_KD[1400]
    labels = [str(k) for k in range(len(rows_KD))]
    assert alike_embeddings(labels, rows_KD) == [["3", "700", "2050"], ["1400", "1500"]]
    assert alike_embeddings(["a"], rows_KD[:1]) == []


def test_many_are_counted_and_the_first_are_named() -> None:
    assert str(named(f"标签{n}" for n in range(1200))) == (
        "标签0, 标签1, 标签2, 标签3, 标签4 … (1,200)"
    )
    assert str(named(["\x1b[31m", " ", "x" * 500])) == "\\x1b[31m, ' ', " + "x" * 400 + "…"
    groups = [["x" * 99, "y" * 99], list("abcdefg")]
    assert str(named_groups(groups)) == f"{'x' * 40}… = {'y' * 40}…, a = b = c = …"


def lexicon(*entries: str) -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordLevel(dict(zip(entries, range(len(entries)), strict=True)), "[UNK]")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), "")]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        # Only whole words are parts of a text in letters: neither `wall` nor `general` has any.
        ("wall", []),
        ("general", []),
        ("A Red Wine", ["wine", "redwine"]),
        ("tabbi cat", ["cat", "tabbycat"]),
        ("波斯猫咪", ["波斯猫", "猫咪", "波斯长毛猫"]),
        ("银猫", ["猫", "金猫", "波斯猫"]),
        ("", []),
    ],
)
def test_the_nearest_words_are_the_same_in_each_process(text: str, nearest: list[str]) -> None:
    entries = [
        *("[UNK]", "fenceorwall", "groenendael", "redwine", "wine", "cat", "tabbycat", "wallet"),
        *("波斯猫", "猫咪", "波斯长毛猫", "金猫", "猫"),
    ]
    # A tokenizer lists its words in another order in each process, and from one time to the next.
    for order in (entries, ["[UNK]", *reversed(entries[1:])]):
        assert nearest_words(lexicon(*order), [text])[text] == nearest


def test_words_of_a_background_are_left_out_or_there_are_none() -> None:
    unread = named(f"词{n}" for n in range(2055))
    some = LabelCheck(background=unread)
    assert not some.refusals
    assert sentences(some) == (
        "these words of the background are left out, as the model does not know them: "
        "词0, 词1, 词2, 词3, 词4 … (2,055)"
    )
    none = LabelCheck(background=unread, has_background=False)
    assert not none.warnings
    assert "so there is nothing to compare labels with: 词0" in sentences(none)


def test_of_labels_that_nobody_chose_those_stay_that_can_be_told_apart(
    chinese: LabelReader,
) -> None:
    labels = ("猫", "cat", "小猫", "猫A", "猫B", "kitten")
    aliases: dict[str, tuple[str, ...]] = {"kitten": ("小狗",), "cat": ("kitty",)}
    parents = {"小猫": "cat", "cat": "动物"}
    found = chinese.fit(LabelPack(labels, aliases=aliases, parents=parents), ("{}",))
    assert found.labels == ("猫", "小猫", "猫A", "kitten")
    assert found.aliases == {"kitten": ("小狗",)}
    # A label that is left out still stands above others.
    assert found.parents == parents


def test_a_person_reads_it_in_their_language_and_records_in_english() -> None:
    (refusal,) = LabelCheck(unread=named(["cat"])).refusals
    with in_language("zh"):
        assert "模型" in str(refusal)
        assert refusal.english.startswith("the model knows no word")
