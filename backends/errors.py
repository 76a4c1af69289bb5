"""What went wrong, in words for the person, each with what to do. Imports only `backends.text`.

SlipwayError
├── BadInput              a value from a form, file, flag or plan; names the field
├── CannotDo              this engine or target cannot do it here, with every reason
├── NotFound              no such run, model, file
├── Conflict              somebody else has it: a name, a port, a folder
├── StepFailed            a step of a plan ended badly: exit code, last lines
│   ├── OutOfSpace        no disk left
│   └── Stalled           nothing moved for too long
├── Unreachable           a server, daemon or host does not answer
├── Refused               a running server refused or failed one request
├── NotKept               the data folder could not be written or read
├── Unexpected            a fault of Slipway itself
└── Stopped               a person asked to stop: not a failure
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.text import Language, Text


class SlipwayError(Exception):
    """An error that may be shown to a person: what happened, what to do, and the field that it is about."""

    exit_code = 1

    def __init__(self, message: Text, hint: Text | None = None, field: str | None = None) -> None:
        super().__init__(message.en if hint is None else f"{message.en} {hint.en}")
        self.message = message
        self.hint = hint
        self.field = field

    def of(self, language: Language) -> str:
        """Message and hint in one language, as lines."""
        words = self.message.of(language)
        return words if self.hint is None else f"{words}\n{self.hint.of(language)}"


class BadInput(SlipwayError):
    """A value cannot be used. `field` is the dotted name of the value, as in a spec file."""

    exit_code = 2

    def __init__(self, field: str, message: Text, hint: Text | None = None) -> None:
        super().__init__(message, hint, field)


class CannotDo(SlipwayError):
    """What was asked is not possible here. `reasons` holds every reason, not only the first."""

    exit_code = 3

    def __init__(self, message: Text, reasons: Sequence[Text] = (), hint: Text | None = None) -> None:
        super().__init__(message, hint)
        self.reasons = tuple(reasons)

    def of(self, language: Language) -> str:
        return "\n".join([super().of(language), *(f"- {reason.of(language)}" for reason in self.reasons)])


class NotFound(SlipwayError):
    """The named thing does not exist."""

    exit_code = 4


class Conflict(SlipwayError):
    """The named thing is held by somebody else."""

    exit_code = 5


class StepFailed(SlipwayError):
    """A step ended badly. `last_lines` are the last lines of its log, secrets removed."""

    exit_code = 6

    def __init__(
        self,
        message: Text,
        hint: Text | None = None,
        *,
        exit_status: int | None = None,
        last_lines: Sequence[str] = (),
    ) -> None:
        super().__init__(message, hint)
        self.exit_status = exit_status
        self.last_lines = tuple(last_lines)


class OutOfSpace(StepFailed):
    """The disk is full."""


class Stalled(StepFailed):
    """Nothing moved for longer than the step allows."""


class Unreachable(SlipwayError):
    """A server, daemon or host does not answer."""

    exit_code = 7


class Refused(SlipwayError):
    """A running server refused or failed one request. `words` is what it said."""

    exit_code = 9

    def __init__(self, words: str, message: Text | None = None, field: str | None = None) -> None:
        said = words.strip() or "no reason"
        super().__init__(message or Text(en=said, zh=said), None, field)
        self.words = said


class Stopped(SlipwayError):
    """A person asked to stop."""

    exit_code = 8

    def __init__(self) -> None:
        super().__init__(Text(en="Stopped as asked.", zh="已按要求停止。"))


class NotKept(SlipwayError):
    """The store could not be written or read: another program holds it, the disk is full, the file is damaged."""

    exit_code = 10


class Unexpected(SlipwayError):
    """Something that nobody thought of: a fault of Slipway itself."""
