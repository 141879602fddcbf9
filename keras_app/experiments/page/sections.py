"""What a page is made of: sections of text, tables and charts."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a line in small print, its mark."""

    text: str
    small: str = ""
    best: bool = False
    tag: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: its header, its cells, its classes in the CSS."""

    head: Cell
    cells: list
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; `label` says what it holds, `name` is its class in the CSS."""

    label: str
    head: list
    rows: list
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page under a title, or one to unfold.

    Attributes:
        title: Its heading; without one only what is `folded` is shown.
        note: A sentence below it.
        charts: The `Chart`s, in a grid; a table beside charts is part of it.
        table: A `Table`, or `None`.
        terms: `[(term, meaning), ...]`.
        lists: `[(name, [text, ...]), ...]`.
        folded: `Section`s to unfold.
    """

    title: str = ""
    note: str = ""
    charts: list = ()
    table: Table | None = None
    terms: list = ()
    lists: list = ()
    folded: list = ()

    @property
    def is_empty(self):
        """Whether there is nothing to show."""
        parts = self.charts, self.table, self.terms, self.lists, self.folded
        return not any(parts)
