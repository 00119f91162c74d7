"""Just enough HTTP/1.1 for the fake engine and the load client. Knows no sockets and no OpenAI."""

from __future__ import annotations

from dataclasses import dataclass

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Message:
    """One whole request or answer."""

    start_line: bytes
    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        """An answer's status; ValueError when this is no answer."""
        return int(self.start_line.split(b" ", 2)[1])


class Reader:
    """Takes bytes as they come and gives back whole messages."""

    def __init__(self) -> None:
        self._data = b""
        self._scanned = 0
        self._forget()

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self._data += data

    @property
    def in_body(self) -> bool:
        """Whether a message's head and at least one byte of its body are there."""
        return self._read_head() and len(self._data) > self._body_at

    @property
    def rest(self) -> int:
        """How many bytes are there beyond the messages given back."""
        return len(self._data)

    def next(self) -> Message | None:
        """The next message, or None until more bytes come.

        Raises:
            ValueError: its chunks are malformed.
        """
        found = self._body() if self._read_head() else None
        if found is None:
            return None
        body, end = found
        message = Message(self._head.split(b"\r\n", 1)[0], self._head, body)
        self._data = self._data[end:]
        self._forget()
        return message

    def _forget(self) -> None:
        self._head = b""
        self._body_at = self._scanned = 0
        self._length: int | None = 0

    def _read_head(self) -> bool:
        if self._body_at:
            return True
        end = self._data.find(_HEAD_END)
        if end < 0:
            return False
        self._head = self._data[:end]
        self._body_at = self._scanned = end + 4
        lower = self._head.lower()
        at = lower.find(b"\r\ncontent-length:")
        if at >= 0:
            self._length = int(lower[at + 17 :].split(b"\r\n", 1)[0])
        elif b"\r\ntransfer-encoding: chunked" in lower:
            self._length = None
        return True

    def _body(self) -> tuple[bytes, int] | None:
        if self._length is not None:
            end = self._body_at + self._length
            return (self._data[self._body_at : end], end) if len(self._data) >= end else None
        # Looking for the end first, and only in what is new, spares a stream the decoding at each of its chunks.
        found = self._data.find(_LAST_CHUNK, self._scanned)
        self._scanned = max(self._body_at, len(self._data) - len(_LAST_CHUNK) + 1)
        if found < 0:
            return None
        self._scanned = self._body_at  # if those bytes were in a chunk, the real end is still to be found
        return unchunk(self._data, self._body_at)


def unchunk(data: bytes, start: int = 0) -> tuple[bytes, int] | None:
    """(the body, where it ends in `data`) of a chunked body, or None while its last chunk is missing.

    Raises:
        ValueError: a chunk's size is no number, or its end is not where that says.
    """
    parts = []
    at = start
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(data[at:line_end].split(b";", 1)[0], 16)
        begin, end = line_end + 2, line_end + 2 + size
        if len(data) < end + 2:
            return None
        if data[end : end + 2] != b"\r\n":
            raise ValueError(f"a chunk of {size} bytes does not end after them")
        if size == 0:
            return b"".join(parts), end + 2
        parts.append(data[begin:end])
        at = end + 2


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def last_chunk() -> bytes:
    """The end of a chunked body."""
    return _LAST_CHUNK
