"""The exceptions of this package.

AgentRolloutsError (ValueError)
├── SourceError     nothing to read where the user pointed
├── FormatError     an unknown format, a file no decoder claims, or one that two claim
└── BadFileError    a file that could not be read, with `on_bad_files="error"`
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
