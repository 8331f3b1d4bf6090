"""Text files: their encoding, and one look at all of their bytes before anything is made of them."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Generator
from dataclasses import dataclass
from encodings.aliases import aliases
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from charset_normalizer import from_bytes
from charset_normalizer.constant import IANA_SUPPORTED

from app.uploads.compression import unpacked
from app.uploads.faults import UnreadableError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE = 4 * 2**20

_CHUNK = 2**20
_SAMPLE = 2**17
_UTF8 = "utf_8"
_USUAL = "cp1252"
# The longer ones first: one begins like the other.
_BOMS = {
    codecs.BOM_UTF8: "utf_8_sig",
    codecs.BOM_UTF32_LE: "utf_32",
    codecs.BOM_UTF32_BE: "utf_32",
    codecs.BOM_UTF16_LE: "utf_16",
    codecs.BOM_UTF16_BE: "utf_16",
}
_ENCODINGS = {*IANA_SUPPORTED, _UTF8, "utf_8_sig"}
_NO_TEXT = frozenset(range(32)) - set(b"\t\n\f\r\x1a\x1b")


@dataclass(frozen=True)
class Text:
    """A text file whose every byte was looked at.

    Attributes:
        path: The file.
        compression: How it is compressed.
        encoding: How its characters are encoded.
        lines: How many line ends it has.
        quotes: How many double quotes it has.
        warnings: What the client should know.
    """

    path: Path
    compression: str
    encoding: str
    lines: int
    quotes: int
    warnings: tuple[str, ...] = ()

    @contextlib.contextmanager
    def open(self) -> Generator[BinaryIO]:
        """Open the text as UTF-8 without a byte order mark."""
        with unpacked(self.path, self.compression) as file:
            yield file if self.encoding == _UTF8 else io.BufferedReader(_AsUtf8(file, self.encoding), _CHUNK)


def open_text(path: Path, compression: str, encoding: str | None, max_bytes: int) -> Text:
    """Look at a text file as a whole.

    Args:
        path: The file.
        compression: How it is compressed.
        encoding: How its characters are encoded; default: by its byte order mark, or UTF-8, or else a guess.
        max_bytes: Bytes that it may have when it is unpacked.

    Raises:
        UnreadableError: If it is no text in that encoding, has a line of more than 4 MiB, or is too large.
    """
    if encoding is not None:
        return _scan(path, compression, _known_encoding(encoding), max_bytes)
    with unpacked(path, compression) as file:
        head = file.read(4)
    if marked := next((name for bom, name in _BOMS.items() if head.startswith(bom)), None):
        return _scan(path, compression, marked, max_bytes)
    try:
        return _scan(path, compression, _UTF8, max_bytes)
    except _NotDecodableError as error:
        guess = _guess(error.sample)
        if guess is None:
            raise
    text = _scan(path, compression, guess, max_bytes)
    warning = f"the text is not UTF-8; its encoding is a guess: {guess} (state it as 'encoding')"
    return Text(path, compression, guess, text.lines, text.quotes, (warning,))


class _NotDecodableError(UnreadableError):
    def __init__(self, detail: str, *, row: int, sample: bytes) -> None:
        super().__init__(detail, row=row)
        self.sample = sample


class _AsUtf8(io.RawIOBase):
    """What another file holds, as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._pending = b""
        self._is_over = False

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer."""
        while not self._pending and not self._is_over:
            chunk = self._file.read(_CHUNK)
            self._is_over = not chunk
            self._pending = self._decoder.decode(chunk, self._is_over).encode()
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._pending))
        view[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


def _scan(path: Path, compression: str, encoding: str, max_bytes: int) -> Text:
    decoder = codecs.getincrementaldecoder(encoding)()
    total = lines = quotes = open_line = 0
    is_over = False
    with unpacked(path, compression) as file:
        while not is_over:
            chunk = file.read(_CHUNK)
            is_over = not chunk
            total += len(chunk)
            if total > max_bytes:
                raise UnreadableError(
                    f"unpacked, the file has more than {max_bytes:,} bytes: is this a decompression bomb?"
                )
            try:
                decoded = decoder.decode(chunk, is_over).encode()
            except (UnicodeError, ValueError) as error:
                raise _not_decodable(error, chunk, lines, encoding) from None
            if b"\0" in decoded:
                row = lines + decoded.count(b"\n", 0, decoded.index(b"\0")) + 1
                raise UnreadableError("there is a NUL byte, which text has none of", row=row)
            open_line = _longest_line(decoded, open_line, lines)
            lines += decoded.count(b"\n")
            quotes += decoded.count(b'"')
    return Text(path, compression, encoding, lines, quotes)


def _longest_line(chunk: bytes, open_line: int, lines: int) -> int:
    """Return how many bytes of the chunk belong to a line that goes on, or refuse a line that is too long."""
    end = b"\n" if b"\n" in chunk else b"\r"
    last = chunk.rfind(end)
    first = chunk.find(end) if last >= 0 else len(chunk)
    # A chunk is shorter than a line may be: only one that began in an earlier chunk can be too long.
    if open_line + first > MAX_LINE:
        raise UnreadableError(f"a line has more than {MAX_LINE:,} bytes", row=lines + 1)
    return len(chunk) - last - 1 if last >= 0 else open_line + len(chunk)


def _not_decodable(error: ValueError, chunk: bytes, lines: int, encoding: str) -> _NotDecodableError:
    row = lines + 1
    what = "bytes"
    if isinstance(error, UnicodeDecodeError):
        row += error.object.count(b"\n", 0, error.start)
        what = f"byte 0x{error.object[error.start]:02x}"
    lines_beyond_ascii = [line for line in chunk.splitlines(keepends=True) if not line.isascii()]
    sample = b"".join(lines_beyond_ascii)[:_SAMPLE]
    return _NotDecodableError(f"{what} cannot be decoded as {encoding}", row=row, sample=sample)


def _guess(sample: bytes) -> str | None:
    if any(byte in _NO_TEXT for byte in sample):
        return None
    matches = from_bytes(sample)
    best = matches.best()
    # Where short samples leave it open, the most frequent of the old encodings is it.
    if best and any(_USUAL in match.could_be_from_charset and match.chaos <= best.chaos for match in matches):
        return _USUAL
    return best.encoding if best else None


def _known_encoding(name: str) -> str:
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    known = aliases.get(plain, plain)
    if known not in _ENCODINGS:
        raise UnreadableError(f"there is no text encoding {name[:40]!r}")
    return known
