"""Text of any usual encoding, compressed by gzip or not, as blocks of whole lines in UTF-8."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAD_BYTES = 2**16  # looked at to find what a file is
_BLOCK_BYTES = 2**24  # of text parsed together; bounds the memory it takes, and the length of a line
_PADDING = re.compile(rb"\0{8,}")  # what a logger leaves that lost its power
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class TextFile:
    """A file of text: its first lines, and blocks of lines for a parser.

    Attributes:
        path: The file.
        lines: Its first lines, whole ones unless the file is a single line.
        notes: What was passed over, one line each, by kind.
        unended: The number of the last line, if nothing ends it; known when blocks() came to it.
        plain: Whether the tools of a shell (head, tail) can cut it: neither compressed nor of two bytes a letter.

    Raises:
        UserError: If it cannot be read, or is no text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: dict[str, str] = {}
        self.unended: int | None = None
        try:
            with path.open("rb") as file:
                self._zipped = file.read(2) == b"\x1f\x8b"
            with self._open() as file:
                head = _PADDING.sub(b"", file.read(HEAD_BYTES))
                whole = not file.read(1)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except (EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be unpacked ({error}); copy it again") from None
        self._encoding = _encoding(path, head)
        self._translated = self._encoding not in ("utf-8", "utf-8-sig") or (b"\r" in head and b"\n" not in head)
        self.plain = not self._zipped and not self._translated
        text = codecs.getincrementaldecoder(self._encoding)("replace").decode(head)
        lines = text.replace("\r\n", "\n").replace("\r", "\n" if self._translated else " ").split("\n")
        self.lines = lines if whole or len(lines) == 1 else lines[:-1]

    def blocks(self, skipped: int) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines in UTF-8 after the first ``skipped`` ones, and the number of the first of them (from 1)."""
        try:
            with self._open() as raw:
                file = _Recoded(raw, self._encoding) if self._translated else raw
                yield from self._lines(file, skipped)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{self.path} cannot be read to its end ({error}); copy it again") from None

    def _lines(self, file: Any, skipped: int) -> Iterator[tuple[int, bytes]]:
        for _ in range(skipped):
            file.readline()
        line, rest = skipped + 1, b""
        while block := file.read(_BLOCK_BYTES):
            if b"\0" in block:
                block = block.replace(b"\0", b"")
                self.notes["zeros"] = "zero bytes, as a loss of power leaves, have been passed over"
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if len(rest) > _BLOCK_BYTES:
                raise UserError(f"{self.path}, line {line}: the line does not end; this is no table of text")
            if newline:
                yield line, whole
                line += whole.count(b"\n") + 1
        if rest.strip():
            self.unended = line
            yield line, rest

    def _open(self) -> Any:
        return gzip.open(self.path, "rb") if self._zipped else self.path.open("rb")


class _Recoded:
    """Reads text of another encoding, or with carriage returns alone, as UTF-8 with line feeds."""

    def __init__(self, raw: Any, encoding: str) -> None:
        self._text = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline=None)

    def readline(self) -> bytes:
        return self._text.readline().encode()

    def read(self, size: int) -> bytes:
        return self._text.read(size).encode()


def _encoding(path: Path, head: bytes) -> str:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        # of two-byte letters that are mostly ASCII one half is zero; other files with zeros are no text
        even, odd = head[0::2].count(0), head[1::2].count(0)
        if max(even, odd) < 0.4 * len(head) / 2 or min(even, odd) > 0:
            raise UserError(f"{path} is not a text table: it holds zero bytes; save it as CSV in UTF-8")
        return "utf-16-be" if even else "utf-16-le"
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(head)
    except UnicodeDecodeError:
        return "cp1252"  # what Windows programs write: µ and ² are units here
    return "utf-8"
