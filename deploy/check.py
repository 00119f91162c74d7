"""`make check`: format, lint, types and import rules; every one runs, and any failure fails the whole.

Run: make check
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STEPS = {
    "format": ["ruff", "format", "--check", "."],
    "lint": ["ruff", "check", "--output-format", "concise", "."],
    "types": ["mypy"],
    "import rules": ["lint-imports"],
}


def main(steps: Mapping[str, list[str]] = STEPS) -> int:
    """Exit status 0 when all is well."""
    failed = []
    for name, command in steps.items():
        print(f"== {name}", flush=True)
        program, *arguments = command
        if subprocess.run([str(BIN / program), *arguments], cwd=ROOT, check=False).returncode != 0:
            failed.append(name)
    print("failed: " + ", ".join(failed) if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
