"""How far the search for widths is, said while it goes on.

Whoever does one of its parts calls a function `progress(what, done, total)`: at
its start, after each unit of work, and at the end with as many done as in all.
It has to do with text and numbers alone, so that it can be called from another
process; see `export.fresh_process.run`.
"""


def silent(what, done, total):
    """Shows nothing.

    Args:
        what: What is counted, a text.
        done: How many are done.
        total: How many there will be at the most.
    """


class Counted:
    """A function that says after each call how many there were.

    Args:
        function: The function.
        what: What a call does, as `silent` takes it.
        most: How often it is called at the most.
        progress: As `silent`.
    """

    def __init__(self, function, what, most, progress):
        self._function = function
        self._what = what
        self._most = most
        self._progress = progress
        self._done = 0
        progress(what, 0, most)

    def __call__(self, *arguments):
        found = self._function(*arguments)
        self._done += 1
        self._progress(self._what, self._done, self._most)
        return found

    def close(self):
        """Says that it is not called again."""
        if self._done < self._most:
            self._progress(self._what, self._done, self._done)
