"""Compressors: how one vector becomes bytes. One file each; `compressors` is the registry."""

from .base import Codec, Compressor, MessageKey, compressors

__all__ = ["Codec", "Compressor", "MessageKey", "compressors"]
