"""producer.console.i18n: what we say, in Chinese where the locale asks for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, run

from producer.console.i18n import OPEN, Catalogue, language, read_pairs

# Said by `say`, raised as `msg`, or found by the doctor, in the modules that people use directly.
MODULES = (
    *("cli/__init__", "cli/submit", "cli/watch", "cli/records", "cli/options", "cli/exit_codes"),
    *("cli/output", "cli/output_options", "jobs/run", "jobs/http_client", "jobs/results"),
    *("jobs/dry_run", "sources/scan", "backend/connection", "backend/local_worker"),
    *("monitoring/doctor", "formats/output_lock"),
)
# Put together from others, or made for other eyes.
NOT_SAID = frozenset(
    [
        *(
            "{}: {} on {}, {}",
            "{}: {}",
            "wanwu-tagger {} {}",
            "{}: {} results are in {}",
            "{} before any work began{}",
            "{} before any result came; {} is as it was",
        ),
        *("worker start --images {}://...", "worker start --images DIR"),
    ]
)


def catalogue() -> Catalogue:
    return Catalogue(read_pairs("zh"))


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_is_that_of_the_locale(variables: dict[str, str], wanted: str) -> None:
    assert language(variables) == wanted


@pytest.mark.parametrize(
    ("english", "said"),
    [
        (
            "error: cannot reach Redis at redis://x: Error 111",
            "错误：无法连接 redis://x 的 Redis：Error 111",
        ),
        (
            "job j is not finished: 3 of 10 images have results; --wait waits for the rest",
            "任务 j 尚未完成：10 张图片中有 3 张已有结果；用 --wait 等待其余的",
        ),
        ("no image found in images", "在 images 中没有找到图片"),
        (
            "failed: /a b.jpg: empty_file: the file is empty",
            "失败：/a b.jpg：empty_file：文件是空的",
        ),
        ("something that nobody has translated", "something that nobody has translated"),
        ("x" * 100_000, "x" * 100_000),
    ],
)
def test_a_sentence_is_said_with_what_stands_in_it(english: str, said: str) -> None:
    assert catalogue().translated(english) == said


def test_each_sentence_of_the_catalogue_finds_itself() -> None:
    """None is hidden behind another that is open for anything."""
    chinese = catalogue()
    for english, said in read_pairs("zh").items():
        example = english.replace(OPEN, "7")
        found = chinese.translated(example)
        assert found != example or english.startswith("pip install"), english
        assert any("\u4e00" <= sign <= "\u9fff" for sign in found) or "pip" in english, said


def templates(module: str) -> Iterator[str]:
    """Yield what a module says, with what changes left open."""
    for node in ast.walk(ast.parse((ROOT / "producer" / f"{module}.py").read_text())):
        said: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            said = node.args[:1] if name in {"say", "_say"} else []
            said = node.args[1:3] if name == "Finding" else said
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "msg":
            said = [node.value]
        for one in said:
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                yield one.value
            elif isinstance(one, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else OPEN for p in one.values)
                yield "".join(map(str, parts))


@pytest.mark.parametrize("module", MODULES)
def test_all_that_a_module_says_is_in_the_catalogue(module: str) -> None:
    chinese = catalogue()
    missing = []
    for words in templates(module):
        example = words.replace(OPEN, "x")
        if words not in NOT_SAID and chinese.translated(example) == example:
            missing.append(words)
    assert not missing


def test_a_command_speaks_chinese_and_its_data_stays_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "空.jpg"
    empty.touch()
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    done = run("producer", "submit", str(empty), "--embedded")
    wrong = run("producer", "submit", str(tmp_path / "none"), "--embedded")
    away = run("producer", "status", broker_url="redis://127.0.0.1:1/0")
    assert done.returncode == 3
    assert "打标签" in done.stderr
    assert f"失败：{empty}：empty_file：文件是空的" in done.stderr
    assert '"message": "the file is empty"' in done.stdout
    assert f"{tmp_path}/none 不存在" in wrong.stderr
    assert away.stderr.startswith("错误：无法连接 redis://127.0.0.1:1/0 的 Redis")
