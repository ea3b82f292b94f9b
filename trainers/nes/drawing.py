"""The picture of the benchmark. Needs the extra `plot`."""

from pathlib import Path
from typing import Any


def draw_totals(result: dict[str, Any], path: Path) -> None:
    """One panel a task: total negative log-likelihood of the test songs, at all steps and at points of interest.

    Args:
        result: As [`seqzoo.trainers.nes.benchmark.run_benchmark`] returns it.
        path: The PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing the benchmark needs matplotlib: pip install 'seqzoo[plot]'") from error

    tasks = list(result["tasks"].values())
    figure = Figure(figsize=(6.5 * len(tasks), 4.2), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        rows = task["rows"]
        totals = [row["test"]["total"] for row in rows.values()]
        for place, (key, label) in enumerate((("nll", "all steps"), ("nll_poi", "points of interest"))):
            measured = [(row + 0.4 * place, total[key]) for row, total in enumerate(totals) if total[key] is not None]
            places, values = zip(*measured, strict=True) if measured else ((), ())
            bars = axes.barh(places, values, height=0.38, label=label)
            axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axes.set_yticks([row + 0.2 for row in range(len(rows))], list(rows))
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set(title=task["title"], xlabel="NLL, nats a step (test)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)
