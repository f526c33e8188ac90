"""Typed errors: each message says what was met, what was expected and what to do."""


class Molmo2Error(Exception):
    """Root of all that this package raises on bad input; a node turns it into a diagnostic."""


class ImageError(Molmo2Error):
    """An image, video or image message that cannot be read or converted."""


class QueryError(Molmo2Error):
    """A question that is empty, too long, malformed, or that the loaded model cannot answer."""


class EngineError(Molmo2Error):
    """An engine folder that is missing, altered, incompatible, or that failed while running."""


class ServerError(EngineError):
    """A server of a remote engine that cannot be reached, refuses, or breaks off in mid-answer.

    Args:
        message: says what was met and what to do.
        status: of HTTP, where the server gave one.
        retry_after_s: seconds after which the server wants to be asked again.
        may_pass: it has not begun with the request, and may take it later.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        may_pass: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.may_pass = may_pass


class AnswerError(Molmo2Error):
    """Model output that cannot be turned into the typed answer that was asked for."""


class ConfigError(Molmo2Error):
    """A parameter or configuration file with an unknown key or a value out of range."""


class TransformError(Molmo2Error):
    """A transform between frames that is not known at the time in question."""


class DataError(Molmo2Error):
    """Training or evaluation data that is missing, malformed or inconsistent."""
