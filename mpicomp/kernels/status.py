"""What a decode kernel returns instead of a position when the bytes make no sense."""

TRUNCATED, BAD_INDEX, BAD_MODE, BAD_COUNT, BAD_PADDING, BAD_VALUE = -1, -2, -3, -4, -5, -6
