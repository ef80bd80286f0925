"""Where the time goes: py-spy looks at the Python processes while they are under load."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import peers
from benchmarks.stage import Stage
from services.launcher.tables import table

PROFILED: Final = ("ingress", "delivery")
SAMPLES_PER_SECOND: Final = 200
SHOWN: Final = 25
_WARM_UP_SECONDS: Final = 1.5
_STOPPED_WITHIN_SECONDS: Final = 60
_LINE: Final = re.compile(r":\d+\)$")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Collapsed stacks of one process, and the functions in which it was found most often."""

    name: str
    stacks: Path
    by_self: Sequence[tuple[str, float]]  # share of the samples in which the function itself ran
    by_total: Sequence[tuple[str, float]]  # share of those in which it, or something that it called, ran


def record(stage: Stage, folder: Path, seconds: float, say: Callable[[str], None]) -> list[Profile]:
    """Write a profile of each process under a load at saturation."""
    folder.mkdir(parents=True, exist_ok=True)
    load = stage.load(connections=64, seconds=seconds + 2 * _WARM_UP_SECONDS)
    groups = stage.groups()
    targets = [(name, process.pid) for name in PROFILED for process in groups[name]]
    paths = {f"{name}-{pid}": folder / f"{name}-{pid}.stacks" for name, pid in targets}
    with peers.under_load(load) as generator:
        time.sleep(_WARM_UP_SECONDS)
        with contextlib.ExitStack() as recorders:
            for name, pid in targets:
                recorders.enter_context(_recording(pid, paths[f"{name}-{pid}"], seconds))
        outcome = peers.outcome_of(generator, load)
    say(f"accepted {outcome.accepted_per_second:,.0f}/s while being profiled")
    return [_read(name, path) for name, path in paths.items()]


def text(profile: Profile) -> str:
    """Return the profile's first functions as two tables."""
    parts = []
    for title, shares in (("by itself", profile.by_self), ("with what it calls", profile.by_total)):
        rows = [[f"{share:.1%}", name] for name, share in shares[:SHOWN]]
        parts.append(f"{profile.name}, {title}\n" + table(["share", "function"], rows))
    return "\n\n".join(parts)


@contextlib.contextmanager
def _recording(pid: int, target: Path, seconds: float) -> Iterator[None]:
    command = [
        *(str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid), "--output", str(target)),
        *(
            "--format",
            "raw",
            "--duration",
            str(round(seconds)),
            "--rate",
            str(SAMPLES_PER_SECOND),
            "--nonblocking",
            "--gil",
        ),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
        process.wait(seconds + _STOPPED_WITHIN_SECONDS)
        if process.returncode:
            raise RuntimeError(
                "py-spy failed: on Linux it needs the right to trace processes (root, or ptrace_scope 0)"
            )
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(_STOPPED_WITHIN_SECONDS)


def _read(name: str, path: Path) -> Profile:
    by_self: Counter[str] = Counter()
    by_total: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        functions = [_LINE.sub(")", frame) for frame in stack.split(";")]
        by_self[functions[-1]] += int(count)
        for function in set(functions):
            by_total[function] += int(count)
    samples = max(by_self.total(), 1)
    return Profile(
        name=name,
        stacks=path,
        by_self=[(function, count / samples) for function, count in by_self.most_common()],
        by_total=[(function, count / samples) for function, count in by_total.most_common()],
    )
