"""A network that dies: a port that passes bytes to another, until so many have gone one way; then it holds them back, and stays open."""

import asyncio
import threading
from contextlib import contextmanager


class Line:
    """What goes through: `port` to connect to, `silent` is set once the line is dead."""

    def __init__(self, to, up=None, down=None):
        self.to, self.left = to, {"up": up, "down": down}
        self.silent = threading.Event()
        self.tasks = set()

    async def open(self, reader, writer):
        """One connection, both ways."""
        self.tasks.add(asyncio.current_task())
        there = await asyncio.open_connection("127.0.0.1", self.to)
        try:
            await asyncio.gather(self.passing(reader, there[1], "up"), self.passing(there[0], writer, "down"))
        except (OSError, asyncio.CancelledError):
            pass  # one end is gone, or the test is over
        finally:
            there[1].close()
            writer.close()

    async def passing(self, reader, writer, way):
        """Bytes of one way, in small pieces, so that it dies inside an object."""
        while data := await reader.read(4096):
            if self.left[way] is not None:
                self.left[way] -= len(data)
                if self.left[way] < 0:
                    self.silent.set()
            if self.silent.is_set():
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@contextmanager
def dying(to, **limits):
    """A Line to the port `to` of this host that dies after `up` bytes to the server or `down` bytes from it."""
    line, ready = Line(to, **limits), threading.Event()

    async def main():
        line.loop, line.end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(line.open, "127.0.0.1", 0)
        line.port = server.sockets[0].getsockname()[1]
        ready.set()
        await line.end.wait()
        server.close()
        for task in line.tasks:
            task.cancel()
        await asyncio.gather(*line.tasks, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    ready.wait()
    try:
        yield line
    finally:
        line.loop.call_soon_threadsafe(line.end.set)
        thread.join()
