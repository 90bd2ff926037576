"""What a reproduction measures: finished runs by label, and tables of results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..runtime import MpicompError
from ..study.compare import Stored

Row = dict[str, Any]


class Interrupted(MpicompError):
    """A signal stopped a run after its checkpoint; the same command goes on from there."""


@dataclass
class Evidence:
    """What a study measured.

    Attributes
    ----------
    curves : runs by the study's own labels. tables : rows of results by the name of the table, values of JSON's types.
    """

    curves: dict[str, Stored] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)

    def rows(self, table: str, **where: Any) -> list[Row]:
        """The rows of a table whose columns have the given values.

        >>> Evidence(tables={"t": [{"n": 1, "x": 5}, {"n": 2, "x": 7}]}).rows("t", n=2)
        [{'n': 2, 'x': 7}]
        """
        return [row for row in self.tables[table] if all(row[k] == v for k, v in where.items())]

    def value(self, table: str, column: str, **where: Any) -> Any:
        """The entry of the one row that `where` selects.

        Raises
        ------
        LookupError : no row, or several.
        """
        rows = self.rows(table, **where)
        if len(rows) != 1:
            raise LookupError(f"table {table!r} has {len(rows)} rows with {where}, expected one")
        return rows[0][column]
