"""The two kinds of error that decide what becomes of a job, and the few special ones.

A permanent error will happen again: the job fails at once and the input is kept. A transient error
may pass: the job is tried again later. Everything else is a bug of ours and fails the job.
"""


class NodeError(Exception):
    """Base. The message names the thing, the value and the remedy, and no patient data."""


class PermanentError(NodeError):
    """Trying again with the same input cannot help."""


class TransientError(NodeError):
    """Trying again later may help."""


class ConfigurationError(PermanentError):
    """`config/node.toml` does not hold; the message lists every problem."""


class UnreadableSeries(PermanentError):
    """A series cannot become a volume; the message says exactly why."""


class ResultRejected(PermanentError):
    """An object that we made contradicts its source, so it must not leave the node."""


class StaleLease(NodeError):
    """Another worker owns the job now; what this worker made must not be published."""


class InputChanged(NodeError):
    """Instances arrived or changed since the job was made, so a newer job takes its place."""
