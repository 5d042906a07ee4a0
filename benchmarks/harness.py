"""How a measurement is made, in a process of its own and in turn with what it is compared with; and how its row is shown.

A script has *parts*, functions of a few numbers that measure one thing once and give a dict; `python -m benchmarks.NAME PART ARGUMENTS`
prints it as a line of JSON. Its `rows()` starts them and compares. Times stay in memory: what is kept is ratios.
"""

import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from mtt import tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results/benchmarks"
ROUNDS = 3
FAILED = "failed"  # the note of a row that was not measured for that


@dataclass
class Row:
    """A line of the table. `value` (None: not measured, `note` says why) is to stay at or below `must`, or at or above it."""

    name: str
    case: str
    value: float | None
    must: float | None = None  # None: no bound, only reported
    aim: float | None = None
    at_most: bool = True
    fractions: tuple | None = None  # of a bare loop over the same convolutions: bare seconds / seconds, of the plain way and of ours
    note: str = ""

    @property
    def met(self):
        """Whether the value keeps to its must; None where there is nothing to say."""
        if self.value is None or self.must is None:
            return None
        return self.value <= self.must if self.at_most else self.value >= self.must

    def record(self):
        """The row as it is stored."""
        row = {"name": self.name, "case": self.case, "value": rounded(self.value), "must": self.must, "aim": self.aim, "met": self.met}
        if self.note:
            row["note"] = self.note
        if self.fractions:
            row |= dict(zip(("plain_of_bare", "ours_of_bare"), map(rounded, self.fractions), strict=True))
        return row

    def cells(self):
        """The row as it is printed."""
        sign = "<= " if self.at_most else ">= "
        value = "not measured" if self.value is None else f"{self.value:.3g}"
        bounds = ["" if bound is None else f"{sign}{bound:g}" for bound in (self.must, self.aim)]
        fractions = [f"{fraction:.2f}" for fraction in self.fractions or ()] or ["", ""]
        return [self.name, self.case, value, *bounds, {None: "", True: "yes", False: "NO"}[self.met], *fractions, self.note]


def rounded(value):
    """Six digits: more would say that a ratio of times has them."""
    return None if value is None else float(f"{value:.6g}")


def table(rows):
    """The rows as aligned text."""
    head = ["row", "case", "value", "must", "aim", "met", "plain of bare", "ours of bare", ""]
    cells = [head, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def markdown(records):
    """Stored rows as the table of RESULTS.md. An aim is stricter than its must, so it says on which side of it a value is to be."""
    head, lines = ["what", "case", "value", "must", "aim", "bare convolutions' share: plain, ours"], []
    for row in records:
        value = "not measured" if row["value"] is None else f"{row['value']:.3g}" + (" **missed**" if row["met"] is False else "")
        sign = ">=" if row["must"] and (row["aim"] or 0) > row["must"] else "<="
        bounds = ["" if row[bound] is None else f"{sign} {row[bound]:g}" for bound in ("must", "aim")]
        shares = f"{row['plain_of_bare']:.2f}, {row['ours_of_bare']:.2f}" if "plain_of_bare" in row else ""
        lines.append([row["name"], row["case"], value, *bounds, shares])
    return tables.markdown(head, lines)


def store(script, rows):
    """Write the rows of a script to its JSON file; of what could not be measured here (no GPU) what stands there stays."""
    path = RESULTS / f"{script}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    before = {(row["name"], row["case"]): row for row in json.loads(path.read_text())} if path.exists() else {}
    kept = [before.get((row.name, row.case)) if row.value is None and row.note != FAILED else None for row in rows]
    path.write_text(json.dumps([old or row.record() for old, row in zip(kept, rows, strict=True)], indent=1) + "\n")


def status(rows):
    """1 where a measured row misses its must, or what would have measured one failed, else 0."""
    return int(any(row.met is False or row.note == FAILED for row in rows))


def main(parts, whole=None):
    """Run the part that the command line names on its arguments and print what it gives; `whole` where it names none."""
    part, *arguments = sys.argv[1:] or [None]
    if whole and part is None:
        return whole()
    if part not in parts:
        sys.exit(f"error: found part {part}; wanted one of {', '.join(parts)}, then its arguments (rows: python -m benchmarks NAME)")
    return print(json.dumps(parts[part](*[int(word) if word.isdigit() else word for word in arguments])))


def measured(script, part, *arguments, **environment):
    """What a part of a script gives in a process of its own."""
    return at_once(1, script, part, *arguments, **environment)[0]


def at_once(count, script, part, *arguments, **environment):
    """The same of `count` processes side by side."""
    return side_by_side(script, [(part, *arguments)] * count, **environment)


def side_by_side(script, parts, lost=None, **environment):
    """What parts of a script give, (part, *arguments) each, in processes of their own that start together.

    Raises ChildProcessError where one fails; the others are ended then. With `lost` they go on, None stands for what that one would
    have given, and lost(its process id) is called, once or more often.
    """
    commands = [[sys.executable, "-m", f"benchmarks.{script}", *map(str, part)] for part in parts]
    environment = {**os.environ, **environment}
    running = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        while any(process.poll() is None for process in running):
            failed = [process.pid for process in running if process.poll()]
            if failed and not lost:
                break
            for number in failed:
                lost(number)
            time.sleep(0.02)
    finally:
        for process in running:
            process.poll() is None and process.kill()
        printed = [process.communicate()[0] for process in running]
    if not lost and any(process.returncode for process in running):
        ended = [(" ".join(command[1:]), process.returncode) for command, process in zip(commands, running, strict=True)]
        guilty = [each for each in ended if each[1] not in (0, -signal.SIGKILL)] or ended  # the others were killed for it
        raise ChildProcessError("; ".join(dict.fromkeys(f"{command} ended with [{status}]" for command, status in guilty)))
    return [None if process.returncode else json.loads(text.splitlines()[-1]) for process, text in zip(running, printed, strict=True)]


def in_turn(rounds, **calls):
    """{name: [result of each round]} of functions {name: function()}, each called once in a round."""
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return found


def by_turns(script, parts, **environment):
    """The same, of parts that measure in `turns`: what takes long to start (a compilation) is started once. One that fails is None."""
    with scratch() as folder:

        def lost(process):  # whom the others wait for no longer
            for number in range(ROUNDS):
                present(Path(folder, str(number)), process)

        return side_by_side(script, parts, lost, BENCHMARK_TURNS=f"{len(parts)}:{folder}", **environment)


def turns(rounds, work):
    """[work() of each round]: the processes of by_turns do each round one after another, once all are ready for it."""
    if "BENCHMARK_TURNS" not in os.environ:
        return [work() for _ in range(rounds)]
    count, folder = os.environ["BENCHMARK_TURNS"].split(":", 1)
    found = []
    for number in range(rounds):
        meet(Path(folder, str(number)), int(count), seconds=0.02)  # those that wait take no time from the one that measures
        with open(Path(folder, "turn"), "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            found.append(work())
    return found


def median(results, key):
    """Over the rounds."""
    return statistics.median(result[key] for result in results)


def meet(folder, count, seconds=0.001):
    """Wait until `count` processes are here, looking every so many seconds."""
    present(folder, os.getpid())
    while len(list(Path(folder).iterdir())) < count:
        time.sleep(seconds)


def present(folder, process):
    """Say that the process of this id is here."""
    Path(folder).mkdir(exist_ok=True)
    Path(folder, str(process)).touch()


def scratch():
    """A temporary folder, as a context."""
    return tempfile.TemporaryDirectory(prefix="benchmark-")


def memory(key="VmRSS"):
    """Bytes of this process by the kernel's account; VmHWM: at its peak, RssAnon: not mapped from files. Linux only."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def forget_peak():
    """Start VmHWM anew and give what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory()


def available():
    """Bytes of memory that the machine can still give."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def seconds(work, device="cpu"):
    """How long work() takes, on a GPU until it is done."""
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronise()
    started = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - started
