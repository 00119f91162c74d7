"""Files, chunks, vector stores, search and the gate: the knowledge a request is given.

Knows no HTTP and no adapters.
"""
