"""Data: sets known by name, LIBSVM text files, and partitions of the rows among clients."""

from .images import images
from .libsvm import SparseRows, parse_libsvm, read_libsvm
from .partition import Partition, partition_rows, partitions
from .sets import DATA_SETS, DataSet, load

__all__ = [
    "DATA_SETS",
    "DataSet",
    "Partition",
    "SparseRows",
    "images",
    "load",
    "parse_libsvm",
    "partition_rows",
    "partitions",
    "read_libsvm",
]
