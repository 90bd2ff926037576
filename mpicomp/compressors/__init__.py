"""Compressors: how one vector becomes bytes. One file each; `compressors` is the registry."""

from .base import Compressor, compressors
from .codec import Codec, MessageKey

__all__ = ["Codec", "Compressor", "MessageKey", "compressors"]
