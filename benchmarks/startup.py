"""What it costs to start: `seqzoo --help`, and `import seqzoo` beside the imports that it cannot do without."""

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe


REPEATS = 7
HELP = "seqzoo --help"
LIBRARY = "the Auto classes and GPT-2"
OURS = "seqzoo, the Auto classes with its models"
PROGRAMS = {
    "python": "pass",
    HELP: "import sys; from seqzoo.__main__ import main; sys.argv = ['seqzoo', '--help']; main()",
    LIBRARY: "from transformers import AutoModelForCausalLM, GPT2LMHeadModel",
    OURS: "import seqzoo; from transformers import AutoModelForCausalLM; seqzoo.register()",
}


def cpu_seconds(program: str) -> float:
    """CPU time of a fresh interpreter that runs `program`."""

    def children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = children()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    return children() - before


def run(progress: Callable[[str], None] = print) -> dict:
    """Median CPU seconds of each program, all in turn; the first round fills the caches and does not count."""
    progress(f"{len(PROGRAMS)} programs, {REPEATS} times each")
    times = {name: [] for name in PROGRAMS}
    for round_ in range(REPEATS + 1):
        for name, program in PROGRAMS.items():
            seconds = cpu_seconds(program)
            if round_:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bars = [
        bar("seqzoo --help, seconds", medians[HELP], "<=", 0.5),
        # Five per cent is what the same imports differ by from round to round.
        bar(f"{OURS} / {LIBRARY}", medians[OURS] / medians[LIBRARY], "<=", 1.05),
    ]
    return {"machine": describe(), "seconds": medians, "bars": bars}


def to_markdown(result: dict) -> str:
    """A table of seconds and the bars."""
    lines = ["| a fresh process | CPU seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in result["seconds"].items()]
    return "\n".join(lines) + "\n\n" + bars_to_markdown(result["bars"])
