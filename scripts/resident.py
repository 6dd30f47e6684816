"""How much memory this process has for its own, as Linux counts it: neither files nor shared."""

import ctypes
import gc
import re
import threading
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
LOOK_EVERY = 0.001  # seconds


def resident_bytes() -> int:
    """What is there now."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None, "only Linux tells"
    return int(found[1]) * 1024


def peak_resident(work: Callable[[], object]) -> int:
    """The most that is there while something is done; what was freed before is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    most, is_over = resident_bytes(), threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_over.wait(LOOK_EVERY):
            most = max(most, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        is_over.set()
        watcher.join()
    return max(most, resident_bytes())
