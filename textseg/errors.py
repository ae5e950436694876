"""Exceptions. Each carries one line that names the argument, the rule and the value."""

from __future__ import annotations


class TextsegError(Exception):
    """Base of every error textseg raises on purpose; the command line exits with 2."""


class InputError(TextsegError, ValueError):
    """An argument breaks a rule."""


class ImageError(InputError):
    """An image cannot be read or has an impossible shape, type or size."""


class ImageWarning(UserWarning):
    """An image says too little of itself to be read without a guess."""


class ModelError(TextsegError):
    """A model folder is incomplete, damaged or of an unsupported family."""


class ModelNotFoundError(ModelError, LookupError):
    """No model of that name lies here; the message says how to get it."""


class MissingDependencyError(TextsegError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class OutputError(TextsegError, OSError):
    """A result cannot be written."""


class CancelledError(TextsegError):
    """A progress callback asked to stop."""


class ServerError(TextsegError):
    """A server cannot be reached, refuses or fails.

    Attributes:
        status: the HTTP status, 0 where there was no answer.
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, status: int = 0, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.status: int = status
        self.retry_after: float = retry_after
