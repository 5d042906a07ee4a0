"""Progress bars with rate, loss and time left; in a log file, a line a minute."""

import sys

from tqdm import tqdm


def say(text):
    """Print on stderr, above the bars."""
    tqdm.write(text, file=sys.stderr)


class Lines:
    """Stderr for a bar in a log file, where nothing can be gone back over: a line for each of its states."""

    def write(self, text):
        """Write a state of the bar as a line; what only clears or ends the bar's own line is nothing."""
        if state := text.strip():
            sys.stderr.write(f"{state}\n")

    def flush(self):
        """Flush stderr."""
        sys.stderr.flush()


def bar(total, label, unit, done=0, shown=True):
    """A tqdm bar over `total` `unit`s, `done` of which were finished before."""
    quiet = not sys.stderr.isatty()
    return tqdm(
        total=total, initial=done, desc=label, unit=unit, dynamic_ncols=not quiet, smoothing=0.05,
        mininterval=60 if quiet else 0.2, maxinterval=60 if quiet else 2, ascii=quiet, disable=not shown,
        file=Lines() if quiet else None,
    )  # fmt: skip
