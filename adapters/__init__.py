"""Behaviour as adapters: stored by content, bound into releases, trained. Knows no HTTP and no retrieval."""
