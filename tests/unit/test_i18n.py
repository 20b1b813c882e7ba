"""worker.contract.i18n: messages in Chinese where the locale asks for it, data as it is."""

from __future__ import annotations

import ast
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from conftest import ROOT, run

from worker.contract import i18n
from worker.contract.i18n import DOMAIN, ENGLISH, LANGUAGES, LOCALE_DIR, use_language, user_language

SOURCES = sorted(path for name in ("producer", "worker") for path in (ROOT / name).rglob("*.py"))


@pytest.fixture
def chinese() -> Iterator[None]:
    use_language("zh")
    yield
    use_language(ENGLISH)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en_GB:zh_CN"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "de:zh"}, "zh"),
        ({"LANG": "C", "LANGUAGE": "zh_CN"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_is_that_of_the_locale(variables: dict[str, str], wanted: str) -> None:
    assert user_language(variables) == wanted


def test_messages_are_english_until_a_language_is_chosen(chinese: None) -> None:
    message = "no image found in {paths}"
    assert i18n.gettext(message) == "在 {paths} 中没有找到图片"
    use_language(ENGLISH)
    assert i18n.gettext(message) == message


def test_a_message_without_translation_and_an_empty_one_stay_as_they_are(chinese: None) -> None:
    assert i18n.gettext("nobody has translated this") == "nobody has translated this"
    assert i18n.gettext("") == ""


def test_the_catalogues_hold_all_messages_of_the_sources_and_no_others() -> None:
    """New messages were extracted and translated, and the .mo was compiled from the .po."""
    done = subprocess.run(
        [sys.executable, "ops/messages.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def placeholders(text: str) -> list[tuple[str, str | None, str | None]]:
    return sorted(
        (name, form or "", conversion or "")
        for _, name, form, conversion in string.Formatter().parse(text)
        if name is not None
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_placeholders_of_its_message(language: str) -> None:
    with (LOCALE_DIR / language / "LC_MESSAGES" / f"{DOMAIN}.po").open("rb") as file:
        catalogue = read_po(file, locale=language)
    for message in catalogue:
        if message.id and "python-brace-format" in message.flags:
            forms = [message.id] if isinstance(message.id, str) else message.id
            texts = [message.string] if isinstance(message.string, str) else message.string or []
            for text in texts:
                assert placeholders(text) in map(placeholders, forms), forms


def calls_at_import(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield the calls that are made when a module is imported."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += getattr(node, "decorator_list", [])
            continue
        if isinstance(node, ast.Call):
            yield node
        waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_translated_at_import_when_no_language_is_chosen_yet(path: Path) -> None:
    names = [
        call.func.id
        for call in calls_at_import(ast.parse(path.read_text()))
        if isinstance(call.func, ast.Name)
    ]
    assert not {"_", "gettext", "ngettext"} & set(names)


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
    assert f"失败：{empty}：empty_file：" in done.stderr
    assert '"message": "the file is empty"' in done.stdout
    assert f"{tmp_path}/none 不存在" in wrong.stderr
    assert away.stderr.startswith("错误：")


def test_a_name_that_looks_like_a_message_is_not_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    done = run("producer", "submit", str(tmp_path / "photos and 3 more"))
    assert "photos and 3 more" in done.stderr
