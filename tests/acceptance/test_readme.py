"""The README's commands, run as they are written; `worker bench` is in test_bench."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import ROOT, Crew, environment
from hub_models import save
from images import fill

import producer.cli
import worker.cli
from producer.formats import records_of
from worker.contract.local.redis_server import EmbeddedRedis

README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUPS = {"producer": producer.cli.main, "worker": worker.cli.main}


def commands() -> list[str]:
    """Return the lines of all shell blocks, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def ours(*words: str) -> list[str]:
    return [line for line in commands() if "producer " in line and all(w in line for w in words)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory as a reader has it, with images below ./images."""
    fill(tmp_path / "images", 3)
    (tmp_path / "images/图.png").write_bytes((tmp_path / "images/册0/图 0.jpg").read_bytes())
    return tmp_path


def shell(line: str, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=home,
        env=environment(**settings) | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.integration
@pytest.mark.parametrize(
    "line",
    [line for line in ours("--embedded", "./images") if "--model" not in line] + ours("find "),
)
def test_the_commands_for_one_machine_run_as_written(line: str, home: Path) -> None:
    done = shell(line, home)
    assert done.returncode == 0, done.stderr
    written = [file.read_text(encoding="utf-8") for file in home.glob("*.jsonl")] or [done.stdout]
    assert [text.count("\n") for text in written] == [1 if "find" in line else 4]


@pytest.mark.integration
def test_the_commands_for_a_model_of_your_own_run_as_written(home: Path) -> None:
    hub_id = "OFA-Sys/chinese-clip-vit-base-patch16"
    save(home / "downloaded", "chinese_clip")
    lines = [line for line in commands() if "--model" in line and "worker bench" not in line]
    assert len(lines) == 2
    for line in lines:
        # No hub here: the same command with the directory of a model of the same family.
        done = shell(line.replace(hub_id, "downloaded"), home)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    records = [json.loads(line) for line in (home / "animals.jsonl").read_text().splitlines()]
    assert {record["model"].partition("@")[0] for record in records} == {"downloaded"}
    assert {tag["label"] for record in records for tag in record["tags"]} == {"猫", "狗"}


@pytest.mark.integration
def test_the_commands_for_a_lasting_queue_run_as_written(home: Path, crew: Crew) -> None:
    with EmbeddedRedis() as server:
        running = crew.start(server.url)
        (home / "new.txt").write_text("猫\n狗\n", encoding="utf-8")
        elsewhere = ("--embedded", "find", "s3://", "serve", "watch")
        lines = [line for line in ours() if not any(word in line for word in elsewhere)]
        job = ""
        assert len(lines) == 14
        for line in lines:
            done = shell(line.replace("JOB", job), home, broker_url=server.url)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            if "--no-wait" in line:
                job = done.stdout.strip()
                shell(f"producer results {job} --wait", home, broker_url=server.url)
        running.stop()
    assert (home / "queue.jsonl").read_text(encoding="utf-8").count("\n") == 4
    assert len(list(records_of(home / "new.parquet"))) == 4
    assert not list(home.glob("images/**/*.xmp"))


@pytest.mark.parametrize("name", GROUPS)
def test_every_verb_explains_itself_with_an_example_and_the_readme_knows_it(name: str) -> None:
    group = GROUPS[name]
    for verb, command in group.commands.items():
        shown = CliRunner().invoke(group, [verb, "--help"])
        assert shown.exit_code == 0
        assert f"Example: {name} {verb}" in shown.output
        assert f"{name} {verb}" in README
        assert all(p.help for p in command.params if isinstance(p, click.Option))


def test_the_readme_names_every_setting_with_its_default() -> None:
    from worker.contract.settings import Settings  # noqa: PLC0415

    for field in Settings.__struct_fields__:
        assert f"`WANWU_{field.upper()}`" in README, field


def test_the_readme_knows_every_error_code() -> None:
    from worker import errors  # noqa: PLC0415

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {
        kind.code for kind in kinds if issubclass(kind, errors.ImageError) and "code" in vars(kind)
    }
    assert {code for code in codes if f"`{code}`" not in README} <= {"reported"}
