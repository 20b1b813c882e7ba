"""tests/support/languages: what counts as a sentence, and what is a name or data."""

from __future__ import annotations

import pytest
from languages import chinese_in, english_in, untranslated_lines


@pytest.mark.parametrize(
    "text",
    [
        "错误：no worker is online",
        "Error: Missing argument here",
        "无法连接 redis://127.0.0.1:1/0 的 Redis：it is not there",
        "提示：worker start --allow DIR failed for this reason",
        "│ 对象 │ there is no such file │",
    ],
)
def test_a_sentence_in_english_is_found(text: str) -> None:
    assert english_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "查看进度：producer status 20261123-181502-5f3a9c",
        "取回标签：producer results 20261123-181502-5f3a9c --wait --out tags.jsonl",
        "启动方法：worker start --allow /data/images --device cuda",
        "或 Hugging Face 目录或 id。[默认：WANWU_MODEL，否则为内置模型]",
        "错误：'no worker is online' 的值无效",
        "失败：/tmp/photos/no worker is online.jpg：文件为空",
        "工作会丢失：CONFIG SET maxmemory-policy noeviction",
    ],
)
def test_names_commands_and_quotations_are_no_sentences(text: str) -> None:
    assert not english_in(text, ["no worker is online.jpg"])


def test_a_line_without_chinese_is_found_unless_it_is_data() -> None:
    assert untranslated_lines("Aborted!\n已中止！\n") == ["Aborted!"]
    assert not untranslated_lines("/tmp/photos\n--out FILE\nworker:\n", terms=["worker"])


def test_chinese_is_found_unless_it_is_data() -> None:
    assert chinese_in("error: 猫。", ["猫"]) == ["。"]
    assert not chinese_in("failed: 猫.jpg", ["猫"])
