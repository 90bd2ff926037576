"""Data: sets known by name, LIBSVM text files, and partitions of the rows among clients."""

from .images import images
from .libsvm import SparseRows, parse_libsvm, read_libsvm
from .partition import Partition, needs_entries, partition_rows, partitions
from .sets import DATA_SETS, DataSet, load
from .shares import DataFile, Outline, shared_reading

__all__ = [
    "DATA_SETS",
    "DataFile",
    "DataSet",
    "Outline",
    "Partition",
    "SparseRows",
    "images",
    "load",
    "needs_entries",
    "parse_libsvm",
    "partition_rows",
    "partitions",
    "read_libsvm",
    "shared_reading",
]
