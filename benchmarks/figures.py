"""Figures from the JSON that runs and benchmarks leave. Needs the extra `plot`."""

from pathlib import Path


def draw_demo(histories: dict[str, dict], teacher_steps: int, times: dict[str, dict], path: Path) -> None:
    """One PNG of three panels: loss curves, time a token and cache size against context.

    Args:
        histories: run -> `history` of its metrics.json: `train` and `validation`, lists of [step, nats a token].
        teacher_steps: Steps of the teacher, after which the runs that start from it begin.
        times: contender -> context -> `ms_per_token` and `cache_bytes` (`seqzoo.benchmarks.generation.decode_times`).
        path: The PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _new_figure(15, 4.5)
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    losses, speed, memory = figure.subplots(1, 3)
    for i, (name, history) in enumerate(histories.items()):
        first = teacher_steps if name in ("teacher_continued", "student") else 0
        for curve, style in (("train", {"alpha": 0.35}), ("validation", {"marker": "o", "label": name})):
            steps, values = zip(*history[curve], strict=True)
            losses.plot([first + step for step in steps], values, color=f"C{i}", **style)
    losses.set(xlabel="step", ylabel="loss (nats a token)", title="Training (faint) and held-out loss")
    losses.legend()
    for axes, key, label, factor in (
        (speed, "ms_per_token", "CPU milliseconds a token", 1),
        (memory, "cache_bytes", "cache (MB)", 1e-6),
    ):
        for name, entries in times.items():
            contexts = [int(context) for context in entries]
            axes.plot(contexts, [entry[key] * factor for entry in entries.values()], marker="o", label=name)
        axes.set(xlabel="tokens of context", ylabel=label, xscale="log", yscale="log")
        axes.set_xticks(contexts, [f"{context:,}" for context in contexts], minor=False)
        axes.tick_params(axis="x", which="minor", bottom=False)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
        axes.legend()
    speed.set_title("Time of the next token")
    memory.set_title("Memory of the context")
    figure.savefig(path, dpi=110)


def draw_update_rules(values: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """One PNG of three panels, quality from scratch, converted, and recall: a dot a seed, a bar at the mean.

    Args:
        values: variant -> measure -> seed -> value; see `seqzoo.benchmarks.update_rules`.
        path: The PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _new_figure(13, 1 + 0.32 * len(values))
    panels = figure.subplots(1, 3, sharey=True)
    titles = {
        "from_scratch": "From scratch (bits per byte)",
        "converted": "Converted (bits per byte)",
        "recall": "Recall of the most pairs",
    }
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        for i, measures in enumerate(values.values()):
            seeds = list(measures.get(measure, {}).values())
            if seeds:
                axes.plot(seeds, [i] * len(seeds), "o", color="C0", alpha=0.6)
                axes.plot([sum(seeds) / len(seeds)], [i], "|", color="black", markersize=14)
        axes.set(title=title)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(values)), list(values))
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=90)


def draw_gpu_times(times: dict[str, dict[int, float]], path: Path) -> None:
    """One PNG: milliseconds by number of steps, both logarithmic, a line a contender.

    Args:
        times: contender -> steps -> milliseconds.
        path: The PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _new_figure(7, 4.5)
    axes = figure.subplots()
    for name, row in times.items():
        axes.plot(list(row), list(row.values()), ":" if "floor" in name else "o-", label=name)
    axes.set(xlabel="steps", ylabel="milliseconds, forward and backward", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=90)


def draw_loss_curves(curves: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """One PNG, a panel a claim: the loss of each seed, faint, and of the first one, by method.

    Args:
        curves: claim -> method -> one list of losses a seed.
        path: The PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure, panels = _panels(len(curves))
    for axes, (claim, methods) in zip(panels, curves.items(), strict=False):
        for i, (method, seeds) in enumerate(methods.items()):
            for j, losses in enumerate(seeds):
                label = method.replace("_", " ") if j == 0 else None
                axes.plot(range(1, len(losses) + 1), losses, color=f"C{i}", alpha=0.4 if j else 1.0, label=label)
        axes.set(title=claim, xlabel="step", ylabel="averaged training loss", yscale="log")
        highest = max((seeds[0][0] for seeds in methods.values() if seeds[0]), default=10)
        axes.set_ylim(top=3 * min(highest, 10))  # what diverges leaves the panel
        axes.legend()
    figure.savefig(path, dpi=90)


def draw_residual_weights(weights: dict[str, list[list]], path: Path) -> None:
    """One PNG, a panel a claim: alpha by layer, a line for each of some steps of the training.

    Args:
        weights: claim -> [step, {layer: alpha}] in the order of steps; a claim may have none.
        path: The PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    weights = {claim: snapshots for claim, snapshots in weights.items() if snapshots}
    figure, panels = _panels(len(weights))
    for axes, (claim, snapshots) in zip(panels, weights.items(), strict=False):
        for i, (step, values) in enumerate(snapshots):
            shade = 0.15 + 0.85 * (i + 1) / len(snapshots)
            axes.plot(
                list(map(int, values)),
                list(values.values()),
                color="C0",
                alpha=shade,
                linewidth=1,
                label=f"step {step}",
            )
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set(title=claim, xlabel="layer", ylabel="alpha")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend([handles[0], handles[-1]], [labels[0], labels[-1]])
    figure.savefig(path, dpi=90)


def draw_singular_values(values: dict[str, dict[int, list[float]]], path: Path) -> None:
    """One PNG, a panel a depth: the singular values of each method's Jacobian, the largest first.

    Args:
        values: method -> depth -> singular values.
        path: The PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    depths = list(next(iter(values.values())))
    figure, panels = _panels(len(depths), sharey=True)
    for axes, depth in zip(panels, depths, strict=False):
        for i, (method, by_depth) in enumerate(values.items()):
            # What is lost altogether lies on the lowest line rather than nowhere.
            shown = [max(value, 1e-12) for value in by_depth[depth]]
            shares = [rank / (len(shown) - 1) for rank in range(len(shown))]
            # Equal ones would hide one another: every second line has gaps.
            axes.plot(shares, shown, "-" if i % 2 else "--", label=method.replace("_", " "))
        axes.set(title=f"{depth:,} layers", xlabel="rank (share)", ylabel="singular value", yscale="log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=90)


def _panels(count: int, **options):
    """A figure of so many panels, three a row; without any, of an empty one."""
    columns = max(min(count, 3), 1)
    rows = max(-(-count // columns), 1)
    figure = _new_figure(4.6 * columns, 3.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


def _new_figure(width: float, height: float):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'seqzoo[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")
