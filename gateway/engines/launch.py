"""Runs a command that must not outlive the process that started it: `python -I launch.py COMMAND ARG…`.

Linux sends this process SIGTERM when its parent ends, however it ends, and the setting survives exec. A
parent that was killed can't clean up; this is what keeps an orphaned engine from holding the GPU.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> None:
    """Bind this process to its parent's life, then become the command."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit("the parent ended before its child began")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
