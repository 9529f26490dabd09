"""A path <-> a text: read with every mistake named, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path

from tonnage.errors import InputError, UsageError

MAX_FILE_BYTES = 1_000_000


def load_text(path: Path, *, limit_bytes: int = MAX_FILE_BYTES) -> str:
    """The text of a UTF-8 file; InputError for anything that is not one."""
    file = str(path)
    try:
        if path.is_dir():
            raise InputError("is a directory, not a file.", file=file)
        with path.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except FileNotFoundError:
        raise InputError("does not exist.", file=file) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot be read: {reason}.", file=file) from None
    if len(data) > limit_bytes:
        raise InputError(f"is larger than {limit_bytes / 1e6:g} MB.", file=file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"is not UTF-8 (byte 0x{data[error.start]:02x}).",
            hint="Save it as UTF-8.",
            file=file,
            line=line,
        ) from None


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError("does not exist.", file=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(path)) from None


def refuse_unwritable(path: Path | None) -> None:
    """Find out before the work, not after it, that `path` cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(
            f"{path} is a directory, not a file.", hint=f"For example -o {path / 'plan.json'}."
        )
    parent = path.parent
    if not parent.is_dir():
        raise UsageError(f"there is no directory {parent} to write {path.name} in.")


def refuse_overwriting(
    written: Mapping[str, Path | None], read: Iterable[tuple[str, Path]] = ()
) -> None:
    """Find out before the work that a file would replace another that is written, or one read.

    Each with what it was asked by ("-o"). Two names of one file are the same.
    """
    places = [(asked, path) for asked, path in written.items() if path is not None]
    for (first, path), (second, other) in combinations(places, 2):
        if _same_file(path, other):
            raise UsageError(f"{first} and {second} would write the same file, {other}.")
    for asked, path in places:
        for source, other in read:
            if _same_file(path, other):
                raise UsageError(
                    f"{asked} would replace {path}, which is read as {source}.",
                    hint="Write to another file.",
                )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve() or (other.is_file() and one.samefile(other))
    except (OSError, ValueError, RuntimeError):  # not there, no name at all, links in a circle
        return False


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` whole or not at all; what was there stays until then.

    Text is written as UTF-8.
    """
    data = content.encode() if isinstance(content, str) else content
    refuse_unwritable(path)
    target = path.resolve()  # through a symbolic link, which stays one
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, _mode_of(target))  # noqa: PTH101 — a name, as mkstemp gives it
            os.replace(name, target)  # noqa: PTH105 — as above
        except BaseException:
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108 — as above
            raise
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}.", file=str(path)) from error


def write_json_atomically(path: Path, body: object) -> None:
    """Write `body` as JSON for people to read, whole or not at all; ValueError for NaN."""
    text = json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n")


def _mode_of(target: Path) -> int:
    """Permissions the file has, or those a new one would get."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
