"""The container engine that is here, if any, and one installation of the product in it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from servicekit import ids
from tests.kit.ports import free_port

ROOT = Path(__file__).parents[2]
IMAGE = "textway:compose-tests"
OWN_CARRIER = "tests/compose/compose.yml"
UP_WITHIN_SECONDS = 300
HEALTHY_WITHIN_SECONDS = 60


class NoEngineError(Exception):
    """There is no engine or no compose command on this machine; the text says which."""


def compose_command() -> Sequence[str]:
    """Return what runs compose here: its second version, or its first."""
    if _fails("docker", "info"):
        raise NoEngineError("no Docker engine answers on this machine")
    if not _fails("docker", "compose", "version"):
        return ("docker", "compose")
    if not _fails("docker-compose", "version"):
        return ("docker-compose",)
    raise NoEngineError("neither `docker compose` nor `docker-compose` is on this machine")


def build() -> float:
    """Build the image; return how many seconds it took. Only the host's network may reach a package index."""
    began = time.monotonic()
    run("docker", "build", "--quiet", "--network", "host", "--tag", IMAGE, str(ROOT), within=1800)
    return time.monotonic() - began


def run(*command: str, within: float = UP_WITHIN_SECONDS, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=within, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def _fails(*command: str) -> bool:
    try:
        return bool(subprocess.run(command, capture_output=True, timeout=60, check=False).returncode)
    except (OSError, subprocess.TimeoutExpired):
        return True


@dataclass(frozen=True, kw_only=True)
class Container:
    """One running container."""

    id: str
    service: str

    def inspect(self) -> dict[str, Any]:
        return dict(json.loads(run("docker", "inspect", self.id))[0])

    @property
    def pid(self) -> int:
        return int(self.inspect()["State"]["Pid"])

    @property
    def exit_code(self) -> int:
        return int(self.inspect()["State"]["ExitCode"])

    @property
    def health(self) -> str:
        return str(self.inspect()["State"]["Health"]["Status"])

    def address(self, network: str) -> str:
        networks = self.inspect()["NetworkSettings"]["Networks"]
        return next(str(each["IPAddress"]) for name, each in networks.items() if name.endswith(f"_{network}"))

    def stop(self) -> float:
        """Stop it as an operator does; return how many seconds it took."""
        began = time.monotonic()
        run("docker", "stop", "--time", "30", self.id)
        return time.monotonic() - began

    def kill(self) -> None:
        run("docker", "kill", "--signal", "KILL", self.id)

    def start(self) -> None:
        run("docker", "start", self.id)

    def memory(self) -> int:
        """Bytes that its processes hold: neither files in the page cache nor PostgreSQL's shared buffers."""
        script = "cat /sys/fs/cgroup/memory.stat 2>/dev/null || cat /sys/fs/cgroup/memory/memory.stat"
        lines = run("docker", "exec", self.id, "sh", "-c", script).splitlines()
        stat = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
        return stat["anon"] if "anon" in stat else stat["total_rss"]


class Installation:
    """One compose project, with a name, a port and volumes of its own."""

    def __init__(self, command: Sequence[str], *overrides: str, **settings: str) -> None:
        self._command = command
        self._files = ("docker-compose.yml", *overrides)
        self.name = f"textway-test-{secrets.token_hex(4)}"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.key = ids.new_secret("sk_live", 40)
        self.settings = {
            "COMPOSE_PROJECT_NAME": self.name,
            "TEXTWAY_IMAGE": IMAGE,
            "TEXTWAY_HTTP_PORT": str(self.port),
            "TEXTWAY_PUBLIC_URL": self.address,
            "TEXTWAY_BOOTSTRAP_KEY": self.key,
            **settings,
        }

    def compose(self, *arguments: str, within: float = UP_WITHIN_SECONDS) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TEXTWAY_")}
        files = [option for file in self._files for option in ("--file", file)]
        environment = {**inherited, **self.settings}
        return run(*self._command, *files, *arguments, within=within, environment=environment)

    def up(self, **replicas: int) -> None:
        """Start it, or change how many replicas a service has; what is not named has one."""
        scale = [option for name, number in replicas.items() for option in ("--scale", f"{name}={number}")]
        self.compose("up", "--detach", "--no-build", *scale)

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "1")

    def containers(self, service: str) -> list[Container]:
        listed = run(
            *("docker", "ps", "--no-trunc", "--quiet"),
            *("--filter", f"label=com.docker.compose.project={self.name}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
        )
        return [Container(id=one, service=service) for one in sorted(listed.split())]

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "50")

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.address, headers=headers, trust_env=False, timeout=10)

    def new_integration(self) -> dict[str, Any]:
        with self.client() as api:
            answer = api.post("/v1/ingress", json={"name": "Order system", "preset": "generic"})
            assert answer.status_code == 201, answer.text
            return dict(answer.json())

    def carrier(self) -> OwnCarrier:
        (container,) = self.containers("carrier")
        published = container.inspect()["NetworkSettings"]["Ports"]["9000/tcp"][0]["HostPort"]
        return OwnCarrier(f"http://127.0.0.1:{published}")


class OwnCarrier:
    """What the carrier of the tests has seen."""

    def __init__(self, address: str) -> None:
        self._address = address

    def seen(self) -> dict[str, int]:
        """How often it was asked to send each message."""
        return dict(httpx.get(f"{self._address}/seen", trust_env=False, timeout=30).json())

    def count(self) -> int:
        """How many different messages it has seen."""
        return int(httpx.get(f"{self._address}/count", trust_env=False, timeout=30).json())


def wait_until(condition: Callable[[], object], what: str, within: float = HEALTHY_WITHIN_SECONDS) -> float:
    """Wait; return how many seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + within, f"not within {within:.0f} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def wait_until_ready(installation: Installation, within: float = HEALTHY_WITHIN_SECONDS) -> float:
    """Wait until the product says by itself that it is ready."""

    def is_ready() -> bool:
        with contextlib.suppress(httpx.HTTPError), installation.client() as api:
            return api.get("/health/ready").status_code == 200 and api.get("/v1/messages").status_code == 200
        return False

    return wait_until(is_ready, "the product is ready", within)


def can_partition() -> bool:
    """Whether this user may drop packets inside of containers."""
    return os.geteuid() == 0 and bool(shutil.which("nsenter")) and bool(shutil.which("iptables"))


@contextlib.contextmanager
def partition(ones: Sequence[Container], others: Sequence[Container], network: str) -> Iterator[None]:
    """Drop every packet between two services without a word, as a broken network does; the rest goes on."""
    addresses = [other.address(network) for other in others]
    pids = [one.pid for one in ones]

    def rules(action: str) -> None:
        for pid in pids:
            for address in addresses:
                for chain, direction in (("INPUT", "--source"), ("OUTPUT", "--destination")):
                    run(
                        *("nsenter", "--target", str(pid), "--net"),
                        *("iptables", "--wait", action, chain, direction, address, "--jump", "DROP"),
                    )

    rules("--insert")
    try:
        yield
    finally:
        rules("--delete")
