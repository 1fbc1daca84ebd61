"""The errors a caller can act on.

Each message names the file, line or key, what was found and what was expected. The command line prints it
without a traceback and exits with 2.
"""


class CrossStageError(Exception):
    """Base of every error that CrossStage raises on purpose."""


class ConfigError(CrossStageError):
    """A model, option or network description that cannot be built."""


class DataError(CrossStageError):
    """An image, video, label file or dataset that cannot be used as it is."""


class WeightsError(CrossStageError):
    """A weights file that is damaged or does not fit the network."""


class TrainingError(CrossStageError):
    """A training that cannot begin or go on."""


class ExportError(CrossStageError):
    """A network that a format cannot hold, or a file that a runtime cannot run."""
