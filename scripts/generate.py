"""Write everything that is derived from other files: the stubs, `.env.example` and the settings page.

`--check` writes to a temporary folder instead and fails where the committed files differ. `--image FILE` writes only
the descriptor set that the proto linter reads.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.resources
import os
import shutil
import sys
import tempfile
from pathlib import Path

from google.api import annotations_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GENERATED = ROOT / "generated"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a committed file is not what it would be")
    parser.add_argument("--image", type=Path, help="write only the descriptor set for the proto linter")
    arguments = parser.parse_args()
    if arguments.image:
        arguments.image.parent.mkdir(parents=True, exist_ok=True)
        _protoc(f"--descriptor_set_out={arguments.image}", "--include_imports", "--include_source_info")
        return 0
    if arguments.check:
        return _check()
    with tempfile.TemporaryDirectory() as folder:
        # Only what was written as a whole replaces what is there.
        _write_stubs(Path(folder))
        shutil.rmtree(GENERATED / "textway", ignore_errors=True)
        shutil.copytree(Path(folder) / "textway", GENERATED / "textway")
    for path, text in _documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


def _write_stubs(target: Path) -> None:
    _protoc(
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
    )


def _protoc(*outputs: str) -> None:
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    annotations = Path(str(annotations_pb2.__file__)).parent.parent.parent
    # The type plug-ins are programs beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    status = protoc.main(["protoc", f"-I{PROTO}", f"-I{annotations}", f"-I{well_known}", *outputs, *files])
    if status:
        raise SystemExit(f"protoc failed with status {status}")


def _documents() -> dict[Path, str]:
    from services.launcher import settings_reference

    return {
        ROOT / ".env.example": settings_reference.env_example(),
        ROOT / "docs" / "configuration.md": settings_reference.configuration_page(),
    }


def _check() -> int:
    stale: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        _write_stubs(fresh)
        stale += _differences(fresh / "textway", GENERATED / "textway")
    stale += [
        str(path.relative_to(ROOT))
        for path, text in _documents().items()
        if not path.is_file() or path.read_text() != text
    ]
    for name in stale:
        print(f"{name} is not what `make generate` writes", file=sys.stderr)
    return 1 if stale else 0


def _differences(fresh: Path, committed: Path) -> list[str]:
    names = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    names |= {
        path.relative_to(committed)
        for path in committed.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(
        f"generated/textway/{name}"
        for name in names
        if not (fresh / name).is_file()
        or not (committed / name).is_file()
        or not filecmp.cmp(fresh / name, committed / name, shallow=False)
    )


if __name__ == "__main__":
    sys.exit(main())
