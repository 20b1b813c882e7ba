"""A clean checkout with its .env filled in, and the compose project that runs there."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ops.stack.engine import ASK_S, Engine, EngineError, call

ROOT: Final = Path(__file__).resolve().parents[2]
# Images are found again by the next run, and no tag of the user's is moved.
TAG: Final = "containers"
PROFILES: Final = ("tools", "http", "monitoring", "gpu")
_PORTS: Final = ("REDIS_PORT", "FLOWER_PORT", "HTTP_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
_PAUSE_S: Final = 0.5
_RESTARTS: Final = 2
_UP_S: Final = 900


def check_out(place: Path) -> None:
    """Copy what git knows of this checkout, with the changes made since; without git, its files."""
    options = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    try:
        listed = call(options, limit_s=ASK_S, cwd=ROOT).stdout
    except EngineError:
        ignored = shutil.ignore_patterns(".env", ".git", ".venv", "__pycache__", "*_cache")
        shutil.copytree(ROOT, place, ignore=ignored, dirs_exist_ok=True)
        return
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)


class Project:
    """Compose in a directory, under a name of its own. The settings are those of its .env."""

    def __init__(self, engine: Engine, place: Path) -> None:
        self.engine = engine
        self.place = place
        self.name = f"wanwu-check-{secrets.token_hex(3)}"
        self.settings = _filled_in(place)
        self._env = {"COMPOSE_PROJECT_NAME": self.name, "COMPOSE_FILE": self._file()}
        # The environment would come before the .env.
        for name in (*self.settings, "COMPOSE_PROFILES"):
            os.environ.pop(name, None)

    def set(self, **settings: str) -> None:
        """Change lines of the .env, as an operator would."""
        self.settings |= settings
        _write_env(self.place, self.settings)

    def compose(self, *options: str, limit_s: float = ASK_S) -> str:
        """Run a command of compose, and return what it prints on standard output."""
        options = (*self.engine.compose, *options)
        return call(options, limit_s=limit_s, cwd=self.place, env=self._env).stdout

    def up(self, *options: str, profiles: tuple[str, ...] = ()) -> None:
        """`up -d`, which waits until all is well where compose can; see `wait_until_healthy`."""
        chosen = [word for name in profiles for word in ("--profile", name)]
        wait = ["--wait"] if self.engine.compose == ("docker", "compose") else []
        self.compose(*chosen, "up", "-d", *wait, *options, limit_s=_UP_S)

    def start(self, *options: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command of compose, and leave it running."""
        with log.open("wb") as file:
            return subprocess.Popen(  # noqa: S603 - words are built by this program
                (*self.engine.compose, *options),
                cwd=self.place,
                env=os.environ | self._env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return what the engine knows of the containers of these services, else of all."""
        label = f"label=com.docker.compose.project={self.name}"
        ids = self.engine.ask("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()
        found = [self.engine.inspect(one) for one in ids]
        return [one for one in found if not services or service_of(one) in services]

    def wait_until_healthy(self, *services: str, limit_s: float) -> None:
        """Return when all containers of these services say that they are well.

        Raises:
            EngineError: one is not after `limit_s`, or ends again and again.
        """
        end = time.monotonic() + limit_s
        while True:
            found = self.containers(*services)
            states = [(service_of(one), health_of(one)) for one in found]
            there = {name for name, _ in states} == set(services)
            if there and all(state == "healthy" for _, state in states):
                return
            again_and_again = any(one["RestartCount"] > _RESTARTS for one in found)
            if again_and_again or time.monotonic() > end:
                msg = f"not healthy: {states}\n{self.last_words()}"
                raise EngineError(msg)
            time.sleep(_PAUSE_S)

    def last_words(self) -> str:
        """Return the last lines of each container that is not well."""
        reply = []
        for one in self.containers():
            if health_of(one) not in {"healthy", "ended"}:
                options = (self.engine.program, "logs", "--tail", "8", one["Id"])
                done = call(options, limit_s=ASK_S)
                reply.append(f"{service_of(one)}:\n{done.stdout}{done.stderr}")
        return "\n".join(reply)

    def kill(self, container: str, image: str) -> None:
        """SIGKILL a container's first process, as the kernel does when memory is short.

        The engine's own `kill` counts as a stop by hand: a container is not started again after it.
        """
        pid = str(self.engine.inspect(container)["State"]["Pid"])
        rights = ("--user", "0", "--cap-drop", "ALL", "--cap-add", "KILL", "--network", "none")
        options = ("-c", "import os, sys; os.kill(int(sys.argv[1]), 9)", pid)
        run = ("run", "--rm", "--pid", "host", *rights, "--entrypoint", "python")
        self.engine.ask(*run, image, *options)

    def down(self) -> None:
        """Remove all that is the project's: containers, networks, volumes."""
        every = [word for name in PROFILES for word in ("--profile", name)]
        self.compose(*every, "down", "--volumes", "--remove-orphans", limit_s=300)

    def _file(self) -> str:
        """Return the name of the compose file; of a copy for version 1, which knows no `name`."""
        file = self.place / "docker-compose.yml"
        if self.engine.compose != ("docker-compose",) or "version 2" in self.engine.version:
            return file.name
        copy = self.place / "docker-compose.v1.yml"
        text = file.read_text(encoding="utf-8")
        copy.write_text(re.sub(r"(?m)^name:.*\n", "", text), encoding="utf-8")
        return copy.name


def service_of(container: Mapping[str, Any]) -> str:
    """Return the name of the service that a container belongs to."""
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def health_of(container: Mapping[str, Any]) -> str:
    """Return healthy, starting, unhealthy, running (has no health check) or ended."""
    state = container["State"]
    if not state["Running"]:
        return "restarting" if state.get("Restarting") else "ended"
    return str((state.get("Health") or state.get("Healthcheck") or {}).get("Status") or "running")


def _filled_in(place: Path) -> dict[str, str]:
    """Write .env from its example, and return its settings."""
    example = (place / ".env.example").read_text(encoding="utf-8")
    settings = dict(re.findall(r"(?m)^([A-Z_]+)=(.*)$", example))
    for name in ("REDIS_PASSWORD", "GRAFANA_PASSWORD", "WANWU_API_KEY"):
        settings[name] = secrets.token_urlsafe(16)
    settings["FLOWER_BASIC_AUTH"] = f"flower:{secrets.token_urlsafe(16)}"
    settings["IMAGE_TAG"] = TAG
    settings["TORCH_INDEX"] = os.environ.get("TORCH_INDEX", "")
    settings |= zip(_PORTS, map(str, _free_ports(len(_PORTS))), strict=True)
    _write_env(place, settings)
    return settings


def _write_env(place: Path, settings: Mapping[str, str]) -> None:
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    (place / ".env").write_text(lines, encoding="utf-8")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
