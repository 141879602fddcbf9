"""SIGTERM ends a run: at its next checkpoint, or soon without one.

Schedulers send it some time before they kill a process. A run goes on to its
next checkpoint for as long as `KERAS_APP_GRACE_SECONDS` say, 10 if they are not
set. Then it stops at the next batch. If none comes, because a step is being
compiled or samples are being scored, the process ends where it is: the last
checkpoint is whole, and `--resume` goes on from it to the same bits.

Of several processes one may be told alone. It tells the others, and all stop
at the same batch. A sweep hands the signal on to its runs.
"""

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time

import keras

from keras_app import cli

GRACE = "KERAS_APP_GRACE_SECONDS"
_GRACE_SECONDS = 10.0
_LOOK_SECONDS = 1.0  # between two looks at what the other processes say
_PATIENCE_SECONDS = 5.0  # for answers, and at most for the next batch
_UNWIND_SECONDS = 5.0  # from there to the end

_noted = threading.Event()
_watch = None  # over the command that is running
_before = None  # what SIGTERM did before that


class Interrupted(Exception):
    """The run was asked to stop, and has; `--resume` goes on."""

    def __init__(self):
        super().__init__("stopped by SIGTERM")


@contextlib.contextmanager
def noticing_sigterm(then=lambda *_: None, last_words=None):
    """Inside, SIGTERM is noted instead of ending the process.

    Args:
        then: What else to do when it comes, a handler as `signal.signal`
            takes it; may raise. Defaults to nothing.
        last_words: Called without arguments, in a thread, if `Interrupted`
            was not raised in time; then the process ends with status 75.
            Defaults to `None`: there is time.

    Raises:
        ValueError: `KERAS_APP_GRACE_SECONDS` is no number of seconds.
        Interrupted: With `last_words`, in the place of whatever else fails
            after SIGTERM: it was often sent to the processes, too, that load
            data or export.
    """
    global _watch, _before

    def note(*signal_and_frame):
        _noted.set()
        then(*signal_and_frame)

    seconds = _grace_seconds()
    _noted.clear()
    with keeping_handler():
        _before = signal.getsignal(signal.SIGTERM)
        _handle(note)
        # Signals come to the main thread alone.
        if last_words is not None and _in_main_thread():
            _watch = _Watch(last_words, seconds, note)
        try:
            yield
        except Exception as error:
            if last_words is None or not was_asked():
                raise
            raise Interrupted from error
        finally:
            watch, _watch = _watch, None
            if watch is not None:
                watch.close()


@contextlib.contextmanager
def keeping_handler():
    """At the end SIGTERM does what it did before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        _handle(before)


def _handle(handler):
    # Only the main thread may say what a signal does.
    if _in_main_thread():
        signal.signal(signal.SIGTERM, handler)


def _in_main_thread():
    return threading.current_thread() is threading.main_thread()


def _grace_seconds():
    text = os.environ.get(GRACE)
    if text is None:
        return _GRACE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"`{GRACE}` must be >= 0. Received: {GRACE}={text}")
    return seconds


def was_asked():
    """Returns whether SIGTERM has come."""
    return _noted.is_set()


def among(board):
    """From here on other processes hear of the signal, and are heard.

    Args:
        board: What `devices.board()` returns.
    """
    if _watch is not None:
        _watch.look_at(board)


def saving(wait):
    """Says what must be waited for before the process ends.

    Args:
        wait: A callable without arguments; called in another thread.
    """
    if _watch is not None:
        _watch.wait_for_files = wait


def stopping():
    """The run stops by itself now, and there is time for that."""
    if _watch is not None:
        _watch.finish()


def pass_point():
    """Raises if the run is to stop here; all processes must call.

    Raises:
        Interrupted: SIGTERM has come, and the time for a checkpoint is over.
    """
    if _watch is not None:
        _watch.pass_point()


class StopPoints(keras.callbacks.Callback):
    """Makes a place to stop at of every batch."""

    def on_train_batch_begin(self, batch, logs=None):
        pass_point()

    def on_test_batch_begin(self, batch, logs=None):
        pass_point()

    def on_predict_batch_begin(self, batch, logs=None):
        pass_point()


class _Watch:
    """A thread that hears of SIGTERM whatever the main thread is doing.

    Python calls a handler when native code has returned, which takes minutes
    where a step is compiled. A byte is written to a pipe at once.

    Args:
        last_words, seconds: See `noticing_sigterm`.
        handler: That of the signal.

    Attributes:
        wait_for_files: See `saving`.
    """

    def __init__(self, last_words, seconds, handler):
        self.wait_for_files = lambda: None
        self._stops = threading.Event()  # by itself, from here on
        self._over = threading.Event()
        self._last_words = last_words
        self._seconds = seconds
        self._handler = handler
        self._board = None
        self._lock = threading.Lock()  # the watcher's while processes agree
        self._passed, self._last = 0, math.inf
        self._hears, self._tells = os.pipe()
        for end in (self._hears, self._tells):
            os.set_blocking(end, False)
        self._other = signal.set_wakeup_fd(
            self._tells, warn_on_full_buffer=False
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self):
        """There is nothing to watch any more."""
        self._over.set()
        self._stops.set()

    def close(self):
        """At the end: no thread is left."""
        self.finish()
        signal.set_wakeup_fd(self._other)
        self._wake()
        self._thread.join()
        os.close(self._hears)
        os.close(self._tells)

    def forget(self):
        """In a forked child: the parent's pipe is not to be written to."""
        signal.set_wakeup_fd(-1)

    def look_at(self, board):
        # The backend has a handler of its own since it met the others, which
        # does nothing but keep the signal from ours.
        _handle(self._handler)
        self._board = board
        self._wake()

    def pass_point(self):
        with self._lock:
            self._passed += 1
            if self._passed >= self._last:
                self._stops.set()
                raise Interrupted

    def _wake(self):
        with contextlib.suppress(BlockingIOError):
            os.write(self._tells, b"\0")

    def _run(self):
        if not self._is_asked():
            return
        _noted.set()
        if self._board is not None:
            self._board.write("asked", "yes")
        if self._over.wait(self._seconds):
            return
        patience = min(self._seconds, _PATIENCE_SECONDS)
        if self._agree() and self._stops.wait(patience):
            # Processes part once more, and may compile something for that.
            if self._over.wait(_UNWIND_SECONDS):
                return
        self.wait_for_files()
        # A launcher may end the first process along with another one.
        self._said_by_all("saved", 0)
        if not self._over.is_set():
            # Whatever fails here, the process must not go on.
            with contextlib.suppress(Exception):
                self._last_words()
                sys.stdout.flush()
            os._exit(cli.EXIT_INTERRUPTED)

    def _is_asked(self):
        """Waits for the signal, here or elsewhere, or for the end."""
        # select() would fail where more than 1024 files are open.
        hears = select.poll()
        hears.register(self._hears, select.POLLIN)
        while not self._over.is_set():
            # It may have come before there was a pipe.
            if _noted.is_set():
                return True
            alone = self._board is None
            hears.poll(None if alone else 1000 * _LOOK_SECONDS)
            with contextlib.suppress(BlockingIOError):
                if signal.SIGTERM in os.read(self._hears, 4096):
                    return True
            if self._board is not None and self._board.read("asked"):
                return True
        return False

    def _agree(self):
        """Chooses the point to stop at: one that no process has passed."""
        with self._lock:
            passed = self._said_by_all("passed", self._passed)
            if passed is not None:
                self._last = max(passed) + 1
        return passed is not None

    def _said_by_all(self, name, number):
        """What all processes say, or `None` if one does not answer."""
        if self._board is None:
            return [number]
        self._board.write(f"{name}/{self._board.rank}", str(number))
        end = time.monotonic() + _PATIENCE_SECONDS
        said = []
        for rank in range(self._board.count):
            while (text := self._board.read(f"{name}/{rank}")) is None:
                if time.monotonic() > end or self._over.wait(0.05):
                    return None
            said.append(int(text))
        return said


def _after_fork():
    """Children, such as those that load data, end at SIGTERM as ever."""
    global _watch
    if _watch is not None:
        _watch.forget()
        _watch = None
        signal.signal(signal.SIGTERM, _before or signal.SIG_DFL)


os.register_at_fork(after_in_child=_after_fork)
