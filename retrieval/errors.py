"""What can go wrong here, as data; the edge decides which HTTP status each becomes.

RetrievalError
├── StoreNotFound       no such vector store, or it is another tenant's
├── FileMissing         no such file, or it is another tenant's
├── FileInUse           the file is still attached to a vector store
├── FileNotUsable       the file cannot become chunks (invalid_file | unsupported_file)
├── EmbeddingMismatch   the store was built with another embedding model
├── IndexCorrupt        an index snapshot does not match its manifest; rebuild it from the database
└── IsolationBreach     a search answered with another tenant's chunk; nothing may be returned
"""

from typing import ClassVar, Literal

FileErrorCode = Literal["invalid_file", "unsupported_file"]


class RetrievalError(Exception):
    """Base of the tree. `label` is the low-cardinality value for metrics."""

    label: ClassVar[str] = "retrieval_error"


class StoreNotFound(RetrievalError):
    label = "store_not_found"

    def __init__(self, store_id: str) -> None:
        super().__init__(f"no vector store {store_id!r}")
        self.store_id = store_id


class FileMissing(RetrievalError):
    label = "file_missing"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"no file {file_id!r}")
        self.file_id = file_id


class FileInUse(RetrievalError):
    label = "file_in_use"

    def __init__(self, file_id: str, store_ids: tuple[str, ...]) -> None:
        super().__init__(f"file {file_id!r} is attached to {', '.join(store_ids)}; remove it there first")
        self.file_id = file_id
        self.store_ids = store_ids


class FileNotUsable(RetrievalError):
    label = "file_not_usable"

    def __init__(self, code: FileErrorCode, filename: str, detail: str) -> None:
        super().__init__(f"{filename!r}: {detail}")
        self.code = code
        self.filename = filename
        self.detail = detail


class EmbeddingMismatch(RetrievalError):
    label = "embedding_mismatch"

    def __init__(self, store_id: str, built_with: str, running: str) -> None:
        super().__init__(
            f"vector store {store_id!r} was built with {built_with}, this process runs {running}"
        )
        self.store_id = store_id
        self.built_with = built_with
        self.running = running


class IndexCorrupt(RetrievalError):
    label = "index_corrupt"

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class IsolationBreach(RetrievalError):
    label = "isolation_breach"

    def __init__(self, tenant_id: str, chunk_id: int) -> None:
        super().__init__(f"chunk {chunk_id} does not belong to tenant {tenant_id!r}")
        self.tenant_id = tenant_id
        self.chunk_id = chunk_id
