"""Writes the pictures and masks that other data sets keep inside their tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from molmo2_ros.camera.encodings import read_encoded
from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.file_name import safe_name
from molmo2_ros.training.data.readers.mask import Mask


@dataclass(frozen=True, slots=True)
class MediaStore:
    """Files below one folder, which becomes that of the dataset.

    Args:
        folder: is made with the first file.
    """

    folder: Path

    def add_mask(self, name: str, mask: Mask) -> str:
        """Writes an 8-bit PNG: 255 on the mask, else 0.

        Returns:
            Its path, relative to the folder.

        Raises:
            ConfigError: it cannot be written.
        """
        _, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
        return self._write("masks", name, ".png", data.tobytes())

    def add_image(self, name: str, data: bytes) -> str:
        """Writes a picture as it was encoded.

        Returns:
            Its path, relative to the folder.

        Raises:
            DataError: the bytes are no picture.
            ConfigError: it cannot be written.
        """
        if read_encoded(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
            raise DataError(
                f"{name}: {len(data)} bytes that are no whole picture, expected PNG or JPEG"
            )
        suffix = ".png" if data.startswith(b"\x89PNG") else ".jpg"
        return self._write("images", name, suffix, data)

    def _write(self, group: str, name: str, suffix: str, data: bytes) -> str:
        relative = f"{group}/{safe_name(name)}{suffix}"
        path = self.folder / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written: {error}; make room or name another folder, and run "
                "again: what is there is kept"
            ) from error
        return relative
