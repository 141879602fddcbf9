"""What every experiment does with its run folder, from start to summary."""

import itertools
import math
import time

from keras_app import files
from keras_app.experiments import devices
from keras_app.experiments import page
from keras_app.experiments.run import interruption
from keras_app.experiments.run.folder import RunFolder
from keras_app.experiments.run.folder import SUMMARY
from keras_app.experiments.run.folder import versions
from keras_app.experiments.run.progress import Terminal


def open_folder(run_dir, resume):
    """Returns `(folder, summary)`; the summary of a run that is finished.

    Raises:
        ValueError: The folder holds another run, or cannot be written.
    """
    folder = RunFolder(run_dir)
    folder.check(resume)
    finished = folder.read_json(SUMMARY) if resume else None
    devices.check_agreement("end of the run", int(finished is not None))
    return folder, finished


class Session:
    """One run while it goes on: its log, checkpoints, terminal and summary.

    A context: where it ends, however it ends, the last checkpoint is written.

    Args:
        folder: The `RunFolder`.
        settings: Plain values that must be equal for a run to be continued.
        resume: Whether to continue what the folder holds.
        verbose: Whether to print.

    Attributes:
        results: `{method: [event, ...]}`, everything that was logged.
        missed: Sentences on targets that were not reached.
        terminal: The `Terminal`.

    Raises:
        ValueError: The folder was started with other settings.
    """

    def __init__(self, folder, settings, resume, verbose):
        self.folder = folder
        self.settings = settings
        self.results = {}
        self.missed = []
        self.terminal = Terminal(verbose and folder.writes)
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._writer = None
        self._checkpoint = folder.load_checkpoint() if resume else None
        logged = -1
        if self._checkpoint is not None:
            self._check_settings(self._checkpoint[1]["settings"])
            logged = sum(map(len, self._checkpoint[1]["results"].values()))
        # What was logged before a checkpoint grows with every one.
        devices.check_agreement("checkpoint", logged)

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self.folder.release()
        if kind is interruption.Interrupted:
            # A launcher may end all processes with the first that leaves.
            devices.anywhere(False)

    def _check_settings(self, stored):
        # An earlier version may not have stored all of them.
        changed = [
            f"{name}: {stored[name]} -> {value}"
            for name, value in self.settings.items()
            if name in stored and stored[name] != value
        ]
        if changed:
            raise ValueError(
                f"{self.folder.path} was started with another configuration ("
                f"{'; '.join(changed)}). Resume it with its own config.gin, "
                "or start in another folder."
            )

    def begin(self, on_start):
        """Makes the folder; returns `(arrays, meta)` to go on from, or `None`.

        Args:
            on_start: Called with the folder, or `None`.
        """
        self.folder.begin()
        interruption.saving(self.folder.wait)
        self.folder.trained = self._checkpoint is not None
        if on_start is not None:
            on_start(self.folder)
        if self._checkpoint is None:
            self.folder.write_log([])
            return None
        arrays, meta, skipped = self._checkpoint
        self._checkpoint = None
        for path in skipped:
            self.terminal.line(f"[yellow]damaged, passed over: {path}[/]")
        self.results = meta["results"]
        self.missed = meta["missed"]
        self._seconds_before = meta["seconds"]
        # Methods follow each other, here as in the log.
        self.folder.write_log(itertools.chain(*self.results.values()))
        return arrays, meta

    @property
    def seconds(self):
        """Time spent on this run, earlier sessions included."""
        return self._seconds_before + time.monotonic() - self._started

    def log(self, event):
        """Keeps an event and appends it to the log."""
        self.results.setdefault(event["method"], []).append(event)
        self.folder.log(event)

    def checkpoint(self, arrays, meta):
        """Keeps what `begin` returns when the run is continued.

        It is written while the training goes on.

        Raises:
            interruption.Interrupted: SIGTERM has come; the end of the
                session waits until it is written.
            OSError: The checkpoint before could not be written.
        """
        meta = {
            **meta,
            "settings": self.settings,
            "results": self.results,
            "missed": self.missed,
            "seconds": self.seconds,
        }
        self.folder.save_checkpoint(arrays, meta)
        if self._writer is not None:
            self._writer.flush()
            self._events.push()
        # One process alone would leave the others waiting for it.
        if devices.anywhere(interruption.was_asked()):
            interruption.stopping()
            raise interruption.Interrupted

    def check_losses(self, logs, when):
        """Raises if an epoch ended with a loss that is no number.

        Args:
            logs: `{name: value}` with `loss` and, if known, `val_loss`.
            when: Words for the epoch.

        Raises:
            FloatingPointError: It names the last good checkpoint.
        """
        for name in ("loss", "val_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                self.folder.flush()
                last = self.folder.newest_checkpoint
                last = (
                    f"The last good checkpoint is {last}."
                    if last
                    else "There is no checkpoint yet."
                )
                raise FloatingPointError(
                    f"`{name}` is {logs[name]} in {when}. {last} Lower the "
                    "learning rate and start again."
                )

    def open_events(self, method):
        """Directs `scalar` to the TensorBoard events of a method."""
        from tensorboard.summary import Writer

        if not self.folder.writes:
            return
        self._close_events()
        place = self.folder.path / "tensorboard" / method
        self._events = files.Mirror(place)
        self._writer = Writer(str(self._events.local))

    def _close_events(self):
        if self._writer is not None:
            self._writer.close()
            self._events.push()

    def scalar(self, name, value, step):
        """Writes one point of a curve to TensorBoard."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)

    def finish(self, summary, title, columns, rows):
        """Writes the summary and the page, and prints the closing table.

        Args:
            summary: The experiment's figures.
            title, columns, rows: The table, see `Terminal.table`.

        Returns:
            The whole summary.
        """
        self.folder.flush()
        self._close_events()
        summary = {
            **summary,
            "seconds": self.seconds,
            "versions": versions(),
            "missed": self.missed,
            "settings": self.settings,
        }
        if self.folder.writes:
            page.write_page([self.folder.path], summaries=[summary])
            self.folder.drop_old_checkpoints()
        self.folder.before_summary()
        # Last of all: a folder with a summary is finished.
        self.folder.write_json(SUMMARY, summary)
        self.terminal.table(title, columns, rows)
        written = self.folder.path / page.PAGE
        self.terminal.line(f"{written} shows the run as pictures")
        return summary
