"""Stand-ins for the interpreter that runs vLLM: scripts that take `-m vllm… --port N` and do something small."""

from __future__ import annotations

import sys
from pathlib import Path

_SCRIPTS = {
    # Answers /health and /v1/models, and ends on SIGTERM.
    "serves": """
import http.server, json, os, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
print("started", os.getpid(), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"" if self.path == "/health" else b'{"object": "list", "data": []}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
""",
    "sleeps": """
import os, time
print("started", os.getpid(), flush=True)
time.sleep(600)
""",
    "fails": """
import sys
print("loading the model", flush=True)
sys.exit("RuntimeError: not enough memory for the KV cache")
""",
    # Leaves a child of its own behind, as an engine's workers would be, and ignores SIGTERM itself.
    "has a stubborn child": """
import os, signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
print("started", os.getpid(), child.pid, flush=True)
time.sleep(600)
""",
}


def command_that(folder: Path, does: str) -> Path:
    """An executable that ignores which module it is asked to run."""
    script = folder / f"{does.replace(' ', '_')}.py"
    script.write_text(f"#!{sys.executable} -S\n{_SCRIPTS[does]}")
    script.chmod(0o755)
    return script
