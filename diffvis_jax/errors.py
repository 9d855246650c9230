"""The errors this library raises: each names the offender.

Those on bad input are `ValueError`s, too.
"""


class DiffvisError(Exception):
    """The base of every error of this library."""


class ConfigError(DiffvisError, ValueError):
    """A configuration or policy value that makes no sense; the message names the field."""


class FrameError(DiffvisError, ValueError):
    """A frame of another size, dtype or batch than the cache or the config expects."""


class CacheError(DiffvisError, ValueError):
    """A cache made for another config, batch or size."""


class CheckpointError(DiffvisError, ValueError):
    """A checkpoint that cannot be read or converted; the message lists every problem found."""


class ActionError(DiffvisError, ValueError):
    """A command that a model wrote and that cannot be carried out; the message quotes it."""


class CaptureError(DiffvisError, ValueError):
    """A screen that cannot be captured, or a place on it that does not exist."""


class PromptError(DiffvisError, ValueError):
    """A prompt that does not fit its images, its template or the model's context."""


class EncoderError(DiffvisError, RuntimeError):
    """An asynchronous encoder that has failed (its cause is the worker's own error), is closed, has
    nothing to show yet, or does not end in time."""


class StaleError(DiffvisError, RuntimeError):
    """Features older than a control loop's `max_age`, where `on_stale` is "raise"."""
