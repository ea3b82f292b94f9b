"""What was measured of ReZero beside its peers, for the cards of its models.

`seqzoo bench rezero_claims` writes the numbers and figures into `benchmarks/results`, beside RESULTS.md; an installed
seqzoo brings them along. They are read when a card is made, so that there is no second copy to disagree with them.
"""

import json
from importlib.resources import files
from typing import Any


RESULTS = files("seqzoo") / "benchmarks" / "results"


def rezero_claims(*names: str) -> str:
    """A Markdown table, a line a claim of `seqzoo.benchmarks.rezero_claims`, and when and how far it was measured."""
    recorded = json.loads((RESULTS / "rezero_claims.json").read_text(encoding="utf-8"))
    machine = recorded["machine"]
    lines = [
        "| | training loss below | steps of ReZero | steps of its best peer | ratio | bars | seeds |",
        "|---|---|---|---|---|---|---|",
        *(_line(name, recorded["claims"][name], recorded["bars"]) for name in names),
        "",
        f"Measured on {machine['date']} with torch {machine['torch']}.",
    ]
    if recorded["missing"]:
        lines[-1] += f" {recorded['missing']} runs of the whole comparison are still missing."
    return "\n".join(lines)


def _line(name: str, claim: dict[str, Any], bars: list[dict[str, Any]]) -> str:
    # Of each method the median steps to the target at its best rate, None where it is not reached.
    steps = {method: entry["rates"][str(entry["lr"])] for method, entry in claim["summary"].items()}
    budget, own = claim["steps"], steps.pop("rezero")
    peer = min((method for method in steps if steps[method] is not None), key=steps.get, default=None)
    if own is None:
        ratio = "-"
    elif peer is None:
        ratio = f"> {budget / own:.2f}"
    else:
        ratio = f"{steps[peer] / own:.2f}"
    seeds = [str(len(claim["summary"][method]["seeds"])) for method in ("rezero", peer) if method]
    cells = [
        f"{name}: {claim['about']}",
        f"{claim['target']:g}",
        f"not in {budget}" if own is None else str(own),
        f"none in {budget}" if peer is None else f"{steps[peer]} ({peer.replace('_', ' ')})",
        ratio,
        "; ".join(_bar(bar) for bar in bars if bar["what"].startswith(f"{name}: ")),
        " and ".join(dict.fromkeys(seeds)),
    ]
    return f"| {' | '.join(cells)} |"


def _bar(bar: dict[str, Any]) -> str:
    """Without the claim in front and the target behind, which the line has already."""
    what = bar["what"].partition(": ")[2].partition(", to ")[0].replace("_", " ")
    return f"{what} {bar['bar']}: {'met' if bar['met'] else '**missed**'}"
