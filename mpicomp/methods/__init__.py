"""Methods: named compositions with their theory, one file each; `methods` is the registry."""

from .base import Method, Parts, Setting, methods

__all__ = ["Method", "Parts", "Setting", "methods"]
