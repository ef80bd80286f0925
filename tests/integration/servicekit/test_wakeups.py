"""What a process tells the kernel and gRPC before it has threads, told in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SPARING = """
import os, sys, threading
from servicekit import wakeups
wakeups.spare()
assert "grpc" not in sys.modules
import grpc
grpc.insecure_channel("127.0.0.1:1").close()
policies = [os.sched_getscheduler(0)]
thread = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
print(policies == [os.SCHED_BATCH] * 2, os.environ["GRPC_EXPERIMENTS"])
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this kernel has no such policy")


def run(**environment: str) -> str:
    given = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    command = [sys.executable, "-c", SPARING]
    done = subprocess.run(command, env={**given, **environment}, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""  # gRPC complains of experiments that it does not know
    return done.stdout.strip()


def test_threads_are_not_pushed_aside_by_those_that_wake():
    assert run() == "True -event_engine_listener"


def test_whoever_sets_grpcs_experiments_has_the_last_word():
    assert run(GRPC_EXPERIMENTS="-event_engine_client") == "True -event_engine_client"
