"""What starting costs: CPU seconds of whole processes, with bytecode cached (Linux).

uv run python scripts/bench.py start
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from gradio_client import Client

MODEL = "acestep-v15-nano-turbo"
CAPTION = "upbeat techno, 126 bpm"
IDLE_SECONDS = 20.0
LOAD = f"""
import time, torch
from acestep import MusicService
began = time.process_time()
MusicService.load("{MODEL}", device="cpu")
print(time.process_time() - began)
"""


def bench_start(rounds: int) -> None:
    """Print the least of several rounds, for whatever else the computer does only adds."""
    loads = [float(output(LOAD)) for _ in range(rounds)]
    songs = [cold_song() for _ in range(rounds)]
    pages = [page() for _ in range(rounds)]
    usable, idle, click, wall, memory = (min(column) for column in zip(*pages, strict=True))
    rows = {
        f"load of {MODEL}, once torch is imported": f"{min(loads):.2f} CPU s",
        "acestep generate, 20 s with Think, cold": f"{min(songs):.1f} CPU s",
        "the page's process until it is usable": f"{usable:.1f} CPU s",
        "first answer on the port": f"{wall:.2f} s",
        "an idle page and its engine": f"{100 * idle:.1f} % of a core",
        "first click after Ready, 20 s with Think": f"{click:.1f} CPU s",
        "memory of the page alone": f"{memory:.0f} MB",
    }
    for what, figure in rows.items():
        print(f"{what:45}{figure:>16}")


def output(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cold_song() -> float:
    """CPU seconds of the command line making its first song."""
    with tempfile.TemporaryDirectory() as folder:
        before = spent_by_children()
        subprocess.run(
            [sys.executable, "-m", "acestep", "generate", "--caption", CAPTION, "--duration", "20",
             "--seed", "3", "--out", f"{folder}/song.flac"],
            check=True, capture_output=True,
        )  # fmt: skip
        return spent_by_children() - before


def page() -> tuple[float, float, float, float, float]:
    """CPU seconds until usable, share of a core when idle, CPU seconds of the first click, seconds
    to the first answer, and the page's memory in MB."""
    with tempfile.TemporaryDirectory() as folder, running_page(folder) as (process, url, wall):
        until(lambda: httpx.get(f"{url}/_boot").json()["ready"])
        usable = spent_by(process.pid)
        until(lambda: "Ready" in httpx.get(f"{url}/live?since=0").json()["engine"]["said"])
        time.sleep(5)  # what Think needs is prepared
        family = [process.pid, *children(process.pid)]
        before = sum(map(spent_by, family))
        time.sleep(IDLE_SECONDS)
        idle = (sum(map(spent_by, family)) - before) / IDLE_SECONDS
        client = Client(url, verbose=False, analytics_enabled=False, download_files=False)
        before = sum(map(spent_by, family))
        client.predict({"caption": CAPTION, "duration": 20, "seed": 3}, api_name="/generate")
        click = sum(map(spent_by, family)) - before
        return usable, idle, click, wall, resident(process.pid) / 1e6


@contextmanager
def running_page(folder: str) -> Iterator[tuple["subprocess.Popen[bytes]", str, float]]:
    """The page in a process of its own, its address, and the seconds until it first answered."""
    url, began = "http://127.0.0.1:7899", time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "acestep", "--port", "7899", "--no-open", "--output-dir", folder],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: httpx.get(url).status_code == 200, pause=0.02)
        yield process, url, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def until(is_so: Callable[[], bool], pause: float = 0.1, seconds: float = 120.0) -> None:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if is_so():
                return
        except httpx.TransportError:
            pass
        time.sleep(pause)
    raise TimeoutError(f"Nothing came within {seconds:g} s.")


def children(pid: int) -> list[int]:
    """Processes that any of its threads has started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for found in lists for each in found.read_text().split()]


def spent_by(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spent_by_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def resident(pid: int) -> int:
    """Bytes of main memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
