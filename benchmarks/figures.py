"""Figures from the JSON that runs and benchmarks leave. Needs the extra `plot`."""

from pathlib import Path


def draw_demo(histories: dict[str, dict], times: dict[str, dict], path: Path) -> None:
    """One PNG of three panels: loss curves, time a token and cache size against context.

    Args:
        histories: run -> `history` of its metrics.json: `train` and `validation`, lists of [step, nats a token].
        times: contender -> context -> `ms_per_token` and `cache_bytes` (`seqzoo.benchmarks.generation.decode_times`).
        path: The PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'seqzoo[plot]'") from error

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    losses, speed, memory = figure.subplots(1, 3)
    for i, (name, history) in enumerate(histories.items()):
        steps, values = zip(*history["train"], strict=True)
        losses.plot(steps, values, color=f"C{i}", alpha=0.35)
        steps, values = zip(*history["validation"], strict=True)
        losses.plot(steps, values, color=f"C{i}", marker="o", label=name)
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
        axes.minorticks_off()
        axes.legend()
    speed.set_title("Time of the next token")
    memory.set_title("Memory of the context")
    figure.savefig(path, dpi=110)
