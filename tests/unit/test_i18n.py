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
from languages import english_in
from rich.cells import cell_len

from producer.console.failures import LETTERS, sentence
from worker import errors
from worker.artifact.manifest import Preprocessing
from worker.contract import i18n
from worker.contract.commands import HelpFormatter
from worker.contract.failure_sentences import IMAGES
from worker.contract.i18n import (
    DOMAIN,
    ENGLISH,
    LANGUAGES,
    LOCALE_DIR,
    Message,
    TranslatedError,
    in_language,
    language_in_use,
    use_language,
    user_language,
)
from worker.contract.reasons import os_reason, reason
from worker.contract.stores import dead_letters
from worker.errors import ExportError
from worker.model.sample import sample

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


def test_an_error_is_in_the_language_in_which_it_is_read() -> None:
    error = TranslatedError("cannot connect to {place}: {reason}", place="a", reason=reason("x"))
    wrapped = TranslatedError(error)
    assert str(wrapped) == "cannot connect to a: x"
    with in_language("zh"):
        assert language_in_use() == "zh"
        assert str(wrapped) == "无法连接 a：x"
    assert str(wrapped) == "cannot connect to a: x"
    assert str(TranslatedError("{as} it is")) == "{as} it is"


def test_what_a_library_says_stays_as_it_is_in_english(chinese: None) -> None:
    message = Message("the disk is full", english="ENOSPC: no room")
    assert str(message) == "磁盘已满"
    use_language(ENGLISH)
    assert str(message) == "ENOSPC: no room"


@pytest.mark.parametrize(
    ("text", "chinese_text"),
    [
        ("Connection refused", "连接被拒绝"),
        ("[Errno 111] Connection refused", "连接被拒绝"),
        ("[Errno 2] No such file or directory: '/a: b'", "'/a: b'：没有此文件或目录"),
        (
            "Error 111 connecting to 127.0.0.1:1. Connection refused",
            "无法连接 127.0.0.1:1：连接被拒绝",
        ),
        ("READONLY You can't write against a read only replica", "READONLY：它是副本，不接受任务"),
        ("Expected `int` >= 1", "应为 `int` >= 1"),
        ("Expected `int`, got `str`", "应为 `int`，而不是 `str`"),
        ("Expected `int | null`, got `str`", "应为 `int | null`，而不是 `str`"),
        ("nobody knows {this}", "nobody knows {this}"),
    ],
)
def test_what_is_known_of_libraries_is_translated(text: str, chinese_text: str) -> None:
    assert str(reason(text)) == text
    with in_language("zh"):
        assert str(reason(text)) == chinese_text


def test_why_the_system_refuses_is_said_without_the_file() -> None:
    error = PermissionError(13, "Permission denied", "/secret")
    assert str(os_reason(error)) == "Permission denied"
    with in_language("zh"):
        assert str(os_reason(error)) == "没有权限"
        assert str(os_reason(OSError("an odd one"))) == "an odd one"


def test_each_code_of_a_failure_has_a_sentence() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {
        kind.code for kind in kinds if issubclass(kind, errors.ImageError) and "code" in vars(kind)
    }
    assert codes - {"reported"} <= set(IMAGES)
    assert {dead_letters.UNREADABLE, dead_letters.FOREIGN_ID} <= set(LETTERS)
    assert sentence("poison", "it was delivered 3 times") == "it was delivered 3 times"
    with in_language("zh"):
        assert sentence("empty_file", "the file is empty") == "文件为空"
        assert sentence("of_tomorrow", "something new") == "something new"


def test_what_must_be_given_is_said_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    said = run("worker", "export", "--help").stdout
    assert "[必填]" in said
    assert "required" not in said


def test_pictures_that_cannot_be_read_are_named_in_chinese(tmp_path: Path, chinese: None) -> None:
    said: list[str] = []
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "b.jpg").touch()
    with pytest.raises(ExportError, match="能解码的图片有 0 张；至少需要 8 张"):
        sample(Preprocessing(height=8, width=8), tmp_path, said.append)
    assert len(said) == 2
    assert not english_in("\n".join(said), [str(tmp_path)])


def test_help_counts_the_columns_of_chinese_and_breaks_its_lines(chinese: None) -> None:
    formatter = HelpFormatter(width=40)
    formatter.write_usage("producer submit", "PATH...")
    with formatter.section("选项"):
        formatter.write_dl([("--标签 TEXT", "标签；可多次给出，" * 5), ("--out", "a file")])
    formatter.write_text("将 Hugging Face 模型导出为（制品），并输出其位置。" * 3)
    text = formatter.getvalue()
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= 40
    assert not [line for line in text.splitlines() if line.strip()[:1] in set("，；。）")]
    assert "将 Hugging Face 模型" in text
    assert "  --标签 TEXT  标签；" in text
    assert "  --out        a file" in text


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


def agree(text: str, form: str) -> bool:
    """Whether they take the same fields; what click names in English may be left out."""
    wanted, found = placeholders(form), placeholders(text)
    optional = {("name", "", ""), ("number_type", "", "")} if "{value!r}" in form else set()
    optional |= {("name", "", "")} if "{filename!r}" in form else set()
    return found == wanted or found == [field for field in wanted if field not in optional]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_placeholders_of_its_message(language: str) -> None:
    with (LOCALE_DIR / language / "LC_MESSAGES" / f"{DOMAIN}.po").open("rb") as file:
        catalogue = read_po(file, locale=language)
    for message in catalogue:
        if message.id and "python-brace-format" in message.flags:
            forms = [message.id] if isinstance(message.id, str) else message.id
            texts = [message.string] if isinstance(message.string, str) else message.string or []
            for text in texts:
                assert any(agree(text, form) for form in forms), forms


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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loop_takes_the_name_of_the_function_that_translates(path: Path) -> None:
    for scope in ast.walk(ast.parse(path.read_text())):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            uses = [node for node in ast.walk(scope) if isinstance(node, ast.Name)]
            bound = [node for node in uses if node.id == "_" and isinstance(node.ctx, ast.Store)]
            called = [node for node in uses if node.id == "_" and isinstance(node.ctx, ast.Load)]
            assert not (bound and called), scope.name


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
    assert "：文件为空" in done.stderr
    assert '"message": "the file is empty"' in done.stdout
    assert f"{tmp_path}/none 不存在" in wrong.stderr
    assert away.stderr.startswith("错误：")


def test_a_name_that_looks_like_a_message_is_not_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    done = run("producer", "submit", str(tmp_path / "photos and 3 more"))
    assert "photos and 3 more" in done.stderr
