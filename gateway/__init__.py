"""The HTTP edge and one request's path: tenant, release, prompt, retrieval, engine, settlement."""

__version__ = "0.1.0"
