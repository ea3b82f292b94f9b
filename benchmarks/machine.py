"""What a benchmark runs on, how it keeps time, and how it is judged."""

import operator
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version

import torch
from tqdm.auto import tqdm

from seqzoo import __version__


def describe() -> dict[str, str]:
    """Processor, versions and date, for the head of a table."""
    return {
        "processor": _processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
        "seqzoo": __version__,  # it may run from its folder, not installed
        "date": datetime.now(UTC).date().isoformat(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def one_thread():
    """Torch on one thread: what is compared is work, not how it is spread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def interleaved_medians(contenders: Mapping[Hashable, Callable[[], object]], repeats: int) -> dict[Hashable, float]:
    """Median process CPU milliseconds of each contender, all in turn, so that a slow minute hits every one of them.

    Each is called once untimed right before it is timed: otherwise it would pay for the memory that the one before it
    gives back.
    """
    times = {name: [] for name in contenders}
    for _ in tqdm(range(repeats), desc="rounds", leave=False):
        for name, run in contenders.items():
            run()
            start = time.process_time()
            run()
            times[name].append((time.process_time() - start) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def bar(what: str, measured: float, relation: str, limit: float) -> dict:
    """What was promised beside what was measured; `relation` is `>=` or `<=`."""
    met = {">=": operator.ge, "<=": operator.le}[relation](measured, limit)
    return {"what": what, "measured": measured, "bar": f"{relation} {limit:g}", "met": met}


def bars_to_markdown(bars: list[dict]) -> str:
    """A table of [`bar`]s; a missed one says so. What is measured is a number, a count, or None for what never was."""
    lines = ["| what | measured | bar | |", "|---|---|---|---|"]
    for entry in bars:
        measured, verdict = entry["measured"], "met" if entry["met"] else "**missed**"
        shown = "not reached" if measured is None else measured if isinstance(measured, int) else f"{measured:.2f}"
        lines.append(f"| {entry['what']} | {shown} | {entry['bar']} | {verdict} |")
    return "\n".join(lines)
