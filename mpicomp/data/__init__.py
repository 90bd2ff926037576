"""Data: sets known by name, files of several formats, arrays, and partitions of the rows among clients."""

from .images import images
from .libsvm import parse_libsvm, read_libsvm
from .partition import Partition, needs_entries, partition_rows, partitions
from .prepare import SCALES, Prepared, held_out
from .sets import DATA_SETS, DataSet
from .shares import Outline, shared_reading
from .sources import Arrays, Data, Source, load
from .tables import SparseRows, from_coordinates

__all__ = [
    "DATA_SETS",
    "SCALES",
    "Arrays",
    "Data",
    "DataSet",
    "Outline",
    "Partition",
    "Prepared",
    "Source",
    "SparseRows",
    "from_coordinates",
    "held_out",
    "images",
    "load",
    "needs_entries",
    "parse_libsvm",
    "partition_rows",
    "partitions",
    "read_libsvm",
    "shared_reading",
]
