"""Other data sets' own files as examples."""

from molmo2_ros.training.data.readers.registry import READERS, describe_options, open_reader
from molmo2_ros.training.data.readers.report import ReadReport, Skipped, Why

__all__ = ["READERS", "ReadReport", "Skipped", "Why", "describe_options", "open_reader"]
