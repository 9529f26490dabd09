"""Records <-> requests.jsonl, a line each, appended the moment a request ends.

A record is safe from whatever happens to this process once `keep` returns, and safe from a loss of
power once `sync` did. A line that was being written when its process was killed is no record: it is
cut off when the file is next appended to, and skipped when it is read.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, fields
from json.encoder import encode_basestring_ascii as quoted  # its C form, where there is one
from pathlib import Path
from typing import Any, NoReturn, get_args

from tonnage.errors import InputError
from tonnage.measurement.load import Failure, LlmCall, Phase, Record, TokenSource

RECORDS_FILE = "requests.jsonl"

_TAIL_BYTES = 1 << 16


class Journal:
    """An append-only file of records, held by one process at a time.

    Raises InputError when another process holds it, or when it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise InputError(
                "is being written by another measurement.",
                hint="Wait for its end, or measure into another folder.",
                file=str(path),
            ) from None
        self.size_bytes = _whole_bytes(self._descriptor)
        os.ftruncate(self._descriptor, self.size_bytes)

    def keep(self, record: Record) -> None:
        """Append one record."""
        self.keep_lines(record_line(record))

    def keep_lines(self, lines: bytes) -> None:
        """Append whole lines, all or none of them."""
        left: bytes | memoryview = lines
        try:
            while (written := os.write(self._descriptor, left)) < len(left):
                left = memoryview(left)[written:]
        except OSError as error:
            os.ftruncate(self._descriptor, self.size_bytes)
            raise self._unwritable(error) from error
        self.size_bytes += len(lines)

    def sync(self) -> None:
        """Have everything on the disk itself."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Sync, and let others write."""
        self.sync()
        os.close(self._descriptor)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"cannot be written: {error.strerror}.", file=str(self.path))


def record_line(record: Record) -> bytes:
    """The line of `record`, times to the microsecond; what says nothing is left out.

    Built by hand: `json` takes four times as long, most of it to find the shortest digits of times.
    Raises ValueError for a time that is none.
    """
    parts = [
        f'{{"level":{quoted(record.level)},"phase":"{record.phase}","item":{quoted(record.item)},',
        f'"scheduled_unix_s":{record.scheduled_unix_s:.6f},"lateness_s":{record.lateness_s:.6f},',
        f'"e2e_s":{record.e2e_s:.6f}',
    ]
    if token_s := record.token_s:
        times = ",%.6f" * len(token_s) % token_s
        parts.append(f',"token_s":[{times[1:]}]')
    if record.status is not None:
        parts.append(f',"status":{record.status:d}')
    if record.prompt_tokens is not None:
        parts.append(f',"prompt_tokens":{record.prompt_tokens:d}')
    if record.output_tokens is not None:
        parts.append(f',"output_tokens":{record.output_tokens:d}')
    if record.tokens_from is not None:
        parts.append(f',"tokens_from":"{record.tokens_from}"')
    parts += _rare_parts(record)
    parts.append("}\n")
    return "".join(parts).encode()


def _rare_parts(record: Record) -> Iterator[str]:
    """What most records have nothing to say about."""
    if record.session is not None:
        yield f',"session":{quoted(record.session)}'
    if record.turn:
        yield f',"turn":{record.turn:d}'
    if record.shard:
        yield f',"shard":{record.shard:d}'
    if record.failure is not None:
        yield f',"failure":"{record.failure}"'
    if record.error:
        yield f',"error":{quoted(record.error)}'
    if record.stale_retries:
        yield f',"stale_retries":{record.stale_retries:d}'
    if record.runtime_s is not None:
        yield f',"runtime_s":{_finite(record.runtime_s):.6f}'
    if record.llm_calls:
        yield f',"llm_calls":{_calls_text(record.llm_calls)}'


def _finite(seconds: float) -> float:
    """A time that somebody else stated, who may have stated anything."""
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds} is no time")
    return seconds


def _calls_text(calls: tuple[LlmCall, ...]) -> str:
    bodies = [
        {key: value for key, value in asdict(call).items() if value is not None} for call in calls
    ]
    for body in bodies:
        for key in ("started_unix_s", "ended_unix_s", "ttft_s"):
            if key in body:
                body[key] = round(body[key], 6)
    return json.dumps(bodies, allow_nan=False, separators=(",", ":"))


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def read_records(path: Path, *, from_byte: int = 0) -> Iterator[Record]:
    """The records of a file, one at a time, from the line that begins at `from_byte` on.

    A last line without an end is skipped; anything else that is no record is an InputError with
    its line (counted from `from_byte`) and key.
    """
    try:
        with path.open("rb") as file:
            file.seek(from_byte)
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                yield _record_of(line, str(path), number)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(path)) from None


def _record_of(line: bytes, file: str, number: int) -> Record:
    def refuse(message: str, key: str | None = None) -> NoReturn:
        raise InputError(message, file=file, line=number, key=key)

    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        refuse("is not JSON.")
    _check(body, _RECORD_KEYS, _RECORD_NEEDS, refuse)
    if "token_s" in body:
        body["token_s"] = tuple(body["token_s"])
    if "llm_calls" in body:
        for call in body["llm_calls"]:
            _check(call, _CALL_KEYS, _CALL_NEEDS, refuse, "llm_calls")
        body["llm_calls"] = tuple(LlmCall(**call) for call in body["llm_calls"])
    return Record(**body)


def _check(
    body: object,
    kinds: dict[str, Callable[[Any], bool]],
    needs: frozenset[str],
    refuse: Callable[[str, str | None], NoReturn],
    within: str | None = None,
) -> None:
    if not isinstance(body, dict):
        refuse("must be an object.", within)
    for key, value in body.items():
        place = f"{within}.{key}" if within else key
        if key not in kinds:
            refuse("is not a key of a record.", place)
        if not kinds[key](value):
            refuse("is not what a record holds there.", place)
    if missing := needs - body.keys():
        key = min(missing)
        refuse("is missing.", f"{within}.{key}" if within else key)


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_whole(value: object) -> bool:
    return type(value) is int


def _is_number(value: object) -> bool:
    return (type(value) is float or type(value) is int) and math.isfinite(value)


def _are_numbers(value: object) -> bool:
    return type(value) is list and all(map(_is_number, value))


def _is_list(value: object) -> bool:
    return type(value) is list


def _one_of(alternatives: object) -> Callable[[object], bool]:
    known = frozenset(get_args(alternatives))
    return lambda value: type(value) is str and value in known


_RECORD_KEYS: dict[str, Callable[[Any], bool]] = {
    "level": _is_text,
    "phase": _one_of(Phase),
    "item": _is_text,
    "scheduled_unix_s": _is_number,
    "lateness_s": _is_number,
    "e2e_s": _is_number,
    "session": _is_text,
    "turn": _is_whole,
    "shard": _is_whole,
    "token_s": _are_numbers,
    "status": _is_whole,
    "failure": _one_of(Failure),
    "error": _is_text,
    "prompt_tokens": _is_whole,
    "output_tokens": _is_whole,
    "tokens_from": _one_of(TokenSource),
    "stale_retries": _is_whole,
    "runtime_s": _is_number,
    "llm_calls": _is_list,
}
_CALL_KEYS: dict[str, Callable[[Any], bool]] = {
    "id": _is_text,
    "started_unix_s": _is_number,
    "ended_unix_s": _is_number,
    "model": _is_text,
    "ttft_s": _is_number,
    "prompt_tokens": _is_whole,
    "output_tokens": _is_whole,
    "failure": _one_of(Failure),
}


def _needed(noun: type) -> frozenset[str]:
    return frozenset(
        each.name
        for each in fields(noun)
        if each.default is MISSING and each.default_factory is MISSING
    )


_RECORD_NEEDS = _needed(Record)
_CALL_NEEDS = _needed(LlmCall)


def _whole_bytes(descriptor: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(end - _TAIL_BYTES, 0)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
