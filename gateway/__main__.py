"""The command `repertory`: starts the gateway and makes keys."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from gateway import __version__
from gateway.errors import ConfigurationError
from gateway.policy import auth
from gateway.settings import ServerSettings, load

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, help="One base model, a repertoire of behaviours."
)


@cli.command()
def serve(config: Annotated[Path, typer.Option(help="YAML file; see deploy/README.md.")]) -> None:
    """Serve what the configuration file describes, until SIGINT or SIGTERM."""
    from gateway.app import build  # after the command line is known to be right: this import takes a second

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    settings = load(config)
    listener = bind(settings.server)
    gateway = build(settings)
    # What exists now lives as long as the process, and a request leaves few cycles behind: the collector need
    # not look at the one again, nor run every few requests for the other.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    server = uvicorn.Server(
        uvicorn.Config(
            gateway.app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            backlog=2048,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(settings.server.drain_seconds),
        )
    )
    server.run(sockets=[listener])


@cli.command()
def keygen() -> None:
    """Print a new API key, for a configuration file or an environment variable."""
    print(auth.generate()[1])


@cli.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def bind(settings: ServerSettings) -> socket.socket:
    """The listening socket, taken before anything slow so that a busy port is known at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
            "stop what uses it, or choose another port with REPERTORY_PORT"
        ) from error
    listener.set_inheritable(False)
    return listener


def main() -> None:
    """The entry point: a ConfigurationError is one sentence and exit status 2."""
    try:
        cli()
    except ConfigurationError as error:
        print(f"repertory: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
