"""The exceptions of this package.

AgentRolloutsError (ValueError)
├── SourceError     nothing to read where the user pointed
├── FormatError     an unknown format, a file no decoder claims, or one that two claim
├── BadFileError    a file that could not be read, with `on_bad_files="error"`
├── MovedError      a dataset on the Hub that was changed by others between reading and writing
├── SessionsError   whole sessions that were not pushed, though their dataset was
├── EndpointError   a language model that cannot be asked: its key, address or name, or its server is down
├── AnswerError     a request to a language model that has no answer; others may have
├── HaltedError     a request that was not made: the run was stopped, or its limit of cost is reached
└── ToolError       what a tool of a generating agent could not do; the model reads why
"""

from __future__ import annotations


class AgentRolloutsError(ValueError):
    """Base of all errors that this package raises on purpose."""


class SourceError(AgentRolloutsError):
    """Nothing to read where the user pointed; the message names the place and the way out."""


class FormatError(AgentRolloutsError):
    """An unknown format, a file no decoder claims, or a file that two decoders claim."""


class BadFileError(AgentRolloutsError):
    """A file that could not be read; raised only with `on_bad_files="error"`."""


class MovedError(AgentRolloutsError):
    """A dataset on the Hub that is no longer what it was when was found out what is new for it."""


class SessionsError(AgentRolloutsError):
    """Whole sessions that were not pushed, though their dataset was; the message says how to finish it."""


class EndpointError(AgentRolloutsError):
    """A language model that cannot be asked; the message names its address and what that says."""


class AnswerError(AgentRolloutsError):
    """A request that has no answer; `status` is that of HTTP where it is the server that refuses it."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class HaltedError(AgentRolloutsError):
    """A request that was not made: the run was stopped, or its limit of cost is reached."""


class ToolError(AgentRolloutsError):
    """What a tool of a generating agent could not do; its message goes back to the model."""
