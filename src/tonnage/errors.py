"""A user's mistake -> one clear line, a remedy and an exit code.

Every error a person can cause is a `TonnageError`; everything else is a bug and stays one.
Only doors (the command line, the web page) catch these, print them and exit.
"""

from __future__ import annotations

EXIT_ANSWERED = 0
EXIT_USAGE = 2
EXIT_BAD_INPUT = 3
EXIT_INFEASIBLE = 4
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell expects


class TonnageError(Exception):
    """A mistake that its user can mend.

    `message` says what is wrong, `hint` what to do about it; `str()` joins them in one line.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message and, when there is one, the hint."""
        return f"{self.message} {self.hint}".strip()


class UsageError(TonnageError):
    """The command line asks for something that cannot be asked."""

    exit_code = EXIT_USAGE


class UnitError(TonnageError):
    """A quantity that cannot be read: no unit, a wrong one, or no number."""


class UnsupportedError(TonnageError):
    """Something real that tonnage does not model; refused rather than ignored."""


class MissingExtraError(TonnageError):
    """An optional part that is not installed; the hint names the extra."""


class InputError(TonnageError):
    """A value in a document that is wrong, with the place it stands at.

    Shown as `file:line: key message`; file, line and key may be unknown (a flag has only a key).
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.line = line
        self.key = key

    def __str__(self) -> str:
        """`file:line: key message hint`, leaving out what is not known."""
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return " ".join(
            part
            for part in (f"{place}:" if place else "", self.key or "", super().__str__())
            if part
        )


class InputErrors(TonnageError):  # noqa: N818 — the plural of InputError
    """Several mistakes found in one reading; shown one to a line."""

    def __init__(self, errors: list[InputError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)
