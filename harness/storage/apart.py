"""Untrusted work in a process of its own: chat templates, processors, models that a stored configuration describes.

`call("package.module:function", ...)` runs one of this project's own functions on plain arguments in a child that has a
time limit and a memory limit, no network and nothing of the parent's state. A loop, a crash or a bomb ends the child;
the caller gets a `HarnessError`. The child is kept for the next call, because its imports take seconds.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

from harness.schema import HarnessError, one_line

SECONDS = 30.0
"""How long a call may take."""
START_SECONDS = 90.0
"""How much longer the first call of a child may take, whose imports take seconds, or more on a busy machine."""
MEMORY_BYTES = 6 * 2**30
"""How much more memory than at its start the child may take."""
REPLY_BYTES = 64 * 2**20
"""Largest answer."""


class Apart:
    """One child, started when it is needed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def call(self, function: str, arguments: dict[str, Any], seconds: float = SECONDS) -> Any:
        """`function` (`module:name`, of this project) on `arguments` in the child; both ways plain JSON.

        Raises `HarnessError` with the child's own fault, or when it takes longer, dies or answers too much.
        """
        with self._lock:
            fresh = self._child is None or self._child.poll() is not None
            most = seconds + (START_SECONDS if fresh else 0.0)
            child = self._start()
            assert child.stdin is not None  # a pipe, as it was asked for
            try:
                child.stdin.write(json.dumps([function, arguments]).encode() + b"\n")
                child.stdin.flush()
                reply = self._reply(child, time.monotonic() + most)
            except BaseException:
                self.stop()
                raise
            if reply is None:
                self.stop()
                raise HarnessError(f"took longer than {most:g} s and was stopped")
            if not reply.endswith(b"\n"):
                code = child.wait()
                self.stop()
                raise HarnessError(f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")
        answer = json.loads(reply)
        if "error" in answer:
            raise HarnessError(answer["error"])
        return answer["value"]

    def _reply(self, child: subprocess.Popen[bytes], deadline: float) -> bytes | None:
        """One line; without its end if the child died, None if it took too long."""
        assert child.stdout is not None  # a pipe, as it was asked for
        handle, read = child.stdout.fileno(), bytearray()
        while not read.endswith(b"\n"):
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            if not (more := os.read(handle, 2**16)):
                break
            read += more
            if len(read) > REPLY_BYTES:
                raise HarnessError(f"its answer is larger than {REPLY_BYTES} bytes")
        return bytes(read)

    def stop(self) -> None:
        """End the child; the next call starts another one."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            where = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
            where["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            self._child = subprocess.Popen(
                [sys.executable, "-m", "harness.storage.apart"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=where,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        return self._child


_apart = Apart()
call = _apart.call
atexit.register(_apart.stop)


def _bound_memory() -> None:
    """At most `MEMORY_BYTES` more than now; where a system knows no such limit the parent's time limit is left."""
    try:
        import resource

        import psutil

        most = psutil.Process().memory_info().vms + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return


def _serve() -> None:
    """Answer calls from standard input until it ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    _bound_memory()
    for line in sys.stdin.buffer:
        function, arguments = json.loads(line)
        module, _, name = function.partition(":")
        answer: dict[str, Any]
        try:
            answer = {"value": getattr(importlib.import_module(module), name)(**arguments)}
        except HarnessError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": f"needs more than {MEMORY_BYTES / 2**30:.0f} GiB of memory"}
        except BaseException as error:  # whatever foreign content does, the parent gets one line
            answer = {"error": one_line(f"{type(error).__name__}: {error}")}
        replies.write(json.dumps(answer).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    _serve()
