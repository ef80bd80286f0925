"""Imported first, by a program: keeps out of its process what a library would import and we never use.

structlog takes `rich` for its tracebacks where that is installed, as it is beside the developers' tools. Ours are plain
(`servicekit.logs`), and `rich` would be 4 MiB in each process of a checkout that no installed one has.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # this is how an import is refused
