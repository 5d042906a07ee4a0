"""The job's side of mtt.cluster: do a task, report how far it is, and end where the stage that waits for it is gone."""

import os
import signal
import threading
import time
import traceback
from contextlib import suppress

from mtt import workers
from mtt.files import write


class Report:
    """Takes ticks, as a pool's queue does; keeps their sum and the last loss in the file `path`, written every two seconds."""

    def __init__(self, path):
        self.path, self.steps, self.loss, self.written = path, 0, None, time.monotonic()

    def put(self, tick):
        """Note (steps, loss or None)."""
        done, loss = tick
        self.steps, self.loss = self.steps + done, self.loss if loss is None else loss
        if time.monotonic() - self.written > 2:
            self.write()

    def write(self):
        """Write it now. A report that cannot be written stops no training."""
        self.written = time.monotonic()
        with suppress(OSError):
            write(self.path, f"{self.steps} {'' if self.loss is None else self.loss}")


def reported(path):
    """(steps, loss or None) of the report in `path`; (0, None) where there is none yet."""
    try:
        steps, *loss = path.read_text().split()
        return int(steps), float(loss[0]) if loss else None
    except (OSError, ValueError):
        return 0, None


def do(functions, alive, task, path):
    """All turns of a task: (result, None), or (None, error), for submitit would make a text of an error that is raised.

    Ends with the stage that keeps `alive`; reports to `path`.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit lets it pass; so scancel need not wait to kill
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit's word for the last seconds before the time limit: train on in them
    end_without(alive)
    report, result = Report(path), None
    try:
        workers.begin(report)
        for function in functions:
            result = workers.call(function, task, result)
        return result, None
    except Exception as error:
        error.add_note(traceback.format_exc())  # where it was raised, for an error that no stage makes one line of
        return None, error
    finally:
        report.write()


def end_without(path, seconds=60):
    """End this process where the file `path` stays as it is for so long. It is opened anew each time: NFS looks no sooner."""

    def watch():
        known, since = None, time.monotonic()
        while time.monotonic() - since < seconds:
            with suppress(OSError):
                if (found := path.read_text()) != known:
                    known, since = found, time.monotonic()
            time.sleep(seconds / 12)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
