"""ReZero's drop-in layers beside torch's own: CPU time of a training step and bytes kept for the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe, interleaved_medians, one_thread
from seqzoo.benchmarks.rezero import saved_bytes
from seqzoo.modeling.rezero.layers_rezero import RZTXEncoderLayer


# As `benchmarks.rezero` compares layers: dropout is the same code everywhere, so it is off.
LAYERS, WIDTH, HEADS, BATCH, TIME = 1, 512, 8, 4, 512
REPEATS = 25
OURS, POST, PRE = "RZTXEncoderLayer", "TransformerEncoderLayer", "TransformerEncoderLayer, norm_first"


def run(progress: Callable[[str], None] = print, repeats: int = REPEATS) -> dict[str, Any]:
    """Each in `nn.TransformerEncoder`, in training. What ours keeps includes its scaled projections."""
    torch.manual_seed(0)
    options = {"d_model": WIDTH, "nhead": HEADS, "dim_feedforward": 4 * WIDTH, "dropout": 0.0, "batch_first": True}
    layers = {
        OURS: RZTXEncoderLayer(**options),
        POST: nn.TransformerEncoderLayer(**options),
        PRE: nn.TransformerEncoderLayer(**options, norm_first=True),
    }
    encoders = {
        name: nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False) for name, layer in layers.items()
    }
    with torch.no_grad():  # as in training, where no alpha is 0
        for layer in encoders[OURS].layers:
            layer.resweight.fill_(0.1)
    x = torch.randn(BATCH, TIME, WIDTH)
    kept = {name: saved_bytes(encoder, x) for name, encoder in encoders.items()}
    progress(f"{LAYERS} layers of width {WIDTH}, {repeats} training steps each")
    with one_thread():
        times = interleaved_medians(
            {name: lambda encoder=encoder: encoder(x).sum().backward() for name, encoder in encoders.items()}, repeats
        )
    return {
        "machine": describe(),
        "sizes": {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "batch": BATCH, "time": TIME},
        "layers": {name: {"ms": times[name], "saved_bytes": kept[name]} for name in encoders},
        "bars": [bar(f"time of a step over that of {POST}", times[OURS] / times[POST], "<=", 1.0)],
    }


def to_markdown(result: dict[str, Any]) -> str:
    """A table of the layers, and the bars."""
    sizes = ", ".join(f"{name} {value}" for name, value in result["sizes"].items())
    lines = [f"Training without dropout, one thread: {sizes}.", "", "| | ms a step | MB saved |", "|---|---|---|"]
    for name, entry in result["layers"].items():
        lines.append(f"| {name} | {entry['ms']:.1f} | {entry['saved_bytes'] / 1e6:.1f} |")
    return "\n".join([*lines, "", bars_to_markdown(result["bars"])])
