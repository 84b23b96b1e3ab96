"""Runs a command in a process group of its own, and says how long it took and how much memory it held.

The command is ended at its limit, and where the process that asked for it is no more.

python measured.py LIMIT_SECONDS STDERR_FILE COMMAND...

Its own process is small: Linux counts the memory of the process that starts another one as the other's, too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress


def main(limit: float, said: str, command: list[str]) -> dict[str, float | int | bool]:
    """What the command took; past the limit its whole group is killed."""
    started = time.perf_counter()
    late, over, asked_by = threading.Event(), threading.Event(), os.getppid()
    with open(said, "wb") as stderr:  # noqa: PTH123
        child = subprocess.Popen(command, stdout=stderr, stderr=stderr, start_new_session=True)

    def end() -> None:
        late.set()
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    def watch() -> None:
        while not over.wait(0.2):
            if os.getppid() != asked_by or time.perf_counter() - started > limit:
                end()
                break

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _, status, used = os.wait4(child.pid, 0)
    except BaseException:
        end()
        raise
    finally:
        over.set()
        watcher.join()
    return {
        "code": os.waitstatus_to_exitcode(status),
        "late": late.is_set(),
        "seconds": time.perf_counter() - started,
        "processor": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / 1024,  # Linux counts kilobytes
    }


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]), sys.argv[2], sys.argv[3:])))
