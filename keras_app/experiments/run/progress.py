"""What a person sees on the terminal while a run goes on."""

import contextlib
import time

from rich.console import Console
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress
from rich.progress import TextColumn
from rich.progress import TimeRemainingColumn
from rich.table import Table


class Terminal:
    """Lines as things happen, and a bar where the output is a terminal.

    Args:
        verbose: `False` prints nothing.
    """

    def __init__(self, verbose=True):
        self.console = Console(quiet=not verbose, highlight=False)
        self._progress = None
        self._task = None
        self._parts = {}
        self._started = time.monotonic()

    def line(self, text):
        """Prints one line with the time since the start in front."""
        seconds = time.monotonic() - self._started
        minutes, seconds = divmod(int(seconds), 60)
        self.console.print(
            f"[dim]{minutes:3d}:{seconds:02d}[/dim]  {text}", soft_wrap=True
        )

    @contextlib.contextmanager
    def bar(self, total, done=0):
        """Shows a bar of `total` units of work while the context is open."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        # Where the output is a file, a bar would only be noise.
        disable = not self.console.is_terminal or self.console.quiet
        with Progress(
            *columns, console=self.console, transient=True, disable=disable
        ) as progress:
            self._progress = progress
            self._task = progress.add_task("", total=total, completed=done)
            yield
        self._progress = None
        self._parts = {}

    def advance(self, description):
        """One unit of work is done."""
        if self._progress is not None:
            self._progress.update(
                self._task, advance=1, description=description
            )

    def part(self, what, done, total):
        """Shows how far something is that no unit of the bar stands for.

        Below the bar while it goes on; then a line says it.

        Args:
            what: What is counted.
            done: How many are done.
            total: How many there will be at the most; as many as are done
                when it has ended.
        """
        if self._progress is not None:
            if what not in self._parts:
                self._parts[what] = self._progress.add_task(what, total=total)
            if done < total:
                self._progress.update(self._parts[what], completed=done)
            else:
                self._progress.remove_task(self._parts.pop(what))
            self._progress.refresh()
        if done == total:
            self.line(f"{what}: {done}")

    def table(self, title, columns, rows):
        """Prints a table; the first column is text, the others numbers."""
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
