"""The network lab: several "nodes" with limited links on one Linux machine, made of network namespaces."""

from .network import LabRun, NetworkLab
from .traffic import Traffic

__all__ = ["LabRun", "NetworkLab", "Traffic"]
