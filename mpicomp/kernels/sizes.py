"""Sizes that kernels agree on."""

PARTIAL_SUMS = 64  # that a block of a norm is added up in
NORM_BLOCK = (
    8192  # entries whose sum is made for itself, so that servers of slices come to the norm of the whole vector
)
BLOCK, PAIR = 16, 32  # entries that are rounded together
LANES = 32  # states of an entropy code that move together
AHEAD = 2048  # entries: what is that far away is on its way from memory while an array is passed through,
PIECE = 256  # so many at a time
CACHE_LINE = 64  # bytes
PLACES = 2**32  # entries of a vector that random bits and packed indices tell apart
