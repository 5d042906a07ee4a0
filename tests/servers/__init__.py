"""Real servers on loopback, each a context manager in a module of its own: on a free port, in a folder of the caller's.

They run in the foreground as children of the tests, and the kernel kills them when the tests end in any way (`setpriv --pdeathsig`).
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

PLACES = os.environ["PATH"] + ":/usr/sbin:/sbin"


def program(name, package):
    """The path of an installed program; skips the test where it is not there."""
    found = shutil.which(name, path=PLACES)
    return found or pytest.skip(f"{name} is not installed: apt-get install {package}")


def free_port():
    """A port of 127.0.0.1 on which nothing listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(*command, log):
    """A server in the foreground, its output in the file `log`; gives the process and kills it at the end."""
    with open(log, "w") as file:
        words = [program("setpriv", "util-linux"), "--pdeathsig", "KILL", *map(str, command)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(port, process, log, seconds=60):
    """Return when something listens on `port`. Raises AssertionError, with the log, where the server ends or does not come."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{process.args[3]}: no server on port {port}\n{Path(log).read_text()}")
