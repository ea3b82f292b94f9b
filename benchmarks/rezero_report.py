"""What the runs of `rezero_claims` say: the rate of each method, medians and spread, bars, tables.

A loss that is not named otherwise is the training loss averaged over steps, each counting 0.9 times the next. A method
that does not reach a threshold within the budget has infinitely many steps to it, None in JSON; a median of an even
number of runs is the later of the two in the middle.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


AVERAGING = 0.9
DIVERGED = 1.1  # times the loss of guessing, at the end


def averaged(losses: Sequence[float]) -> list[float]:
    """The exponential average at each step, corrected for its start at 0."""
    result, average, share = [], 0.0, 1.0
    for loss in losses:
        average = AVERAGING * average + (1 - AVERAGING) * loss
        share *= AVERAGING
        result.append(average / (1 - share))
    return result


def crossing(curve: Sequence[float], threshold: float) -> int | None:
    """The first step at which a curve is below a threshold."""
    return next((i for i, value in enumerate(curve, start=1) if value < threshold), None)


def diverged(run: Mapping[str, Any], steps: int, classes: int) -> bool:
    """Whether the loss stopped being a number, or ended a tenth above that of guessing among the classes."""
    return len(run["losses"]) < steps or averaged(run["losses"])[-1] > DIVERGED * math.log(classes)


def median(values: Sequence[float | None]) -> float | None:
    middle = statistics.median_high([math.inf if value is None else value for value in values])
    return None if math.isinf(middle) else middle


def summarise(
    runs: Mapping[str, Mapping[float, Mapping[int, Mapping[str, Any]]]],
    steps: int,
    thresholds: Sequence[float],
    target: float,
    classes: int,
    clock: str = "cpu_seconds",
) -> dict[str, dict[str, Any]]:
    """Each method at its best rate.

    Args:
        runs: method -> rate -> seed -> what [`seqzoo.benchmarks.rezero_runs.record`] returned. Of a method, the seeds
            count that all of its rates have; one without such a seed is left out.
        steps: The budget.
        thresholds: To report.
        target: The one that the rate is chosen by: the fewest steps to it in the median; among rates that do not reach
            it, the lowest loss at the end.
        classes: What is guessed among.
        clock: `cpu_seconds` or `wall_seconds` of the runs, which become `seconds`.

    Returns:
        method -> `lr`, `at_edge` (whether it is the least or the greatest of them), `seeds`, `rates` (rate -> median
        steps to the target), `diverged` and `runs` (over all rates), `steps` and `seconds` (threshold -> one a
        seed), `final_loss` and `held_out` (one a seed), `parameters`.
    """
    result = {}
    for method, by_rate in runs.items():
        common = sorted(set.intersection(*(set(seeds) for seeds in by_rate.values())))
        if not common:
            continue
        rates = {lr: [seeds[seed] for seed in common] for lr, seeds in by_rate.items()}

        def steps_to(lr: float, threshold: float, rates=rates) -> list[int | None]:
            return [crossing(averaged(run["losses"]), threshold) for run in rates[lr]]

        def final(lr: float, rates=rates) -> list[float | None]:
            return [None if diverged(run, steps, classes) else averaged(run["losses"])[-1] for run in rates[lr]]

        def order(lr: float) -> tuple[float, float]:
            reached, loss = median(steps_to(lr, target)), median(final(lr))
            return math.inf if reached is None else reached, math.inf if loss is None else loss

        lr = min(rates, key=order)
        everything = [run for seeds in by_rate.values() for run in seeds.values()]
        reached = {str(threshold): steps_to(lr, threshold) for threshold in thresholds}
        result[method] = {
            "lr": lr,
            "at_edge": len(rates) > 1 and lr in (min(rates), max(rates)),
            "seeds": common,
            "rates": {str(rate): median(steps_to(rate, target)) for rate in rates},
            "diverged": sum(diverged(run, steps, classes) for run in everything),
            "runs": len(everything),
            "steps": reached,
            "seconds": {
                threshold: [
                    None if step is None else run[clock][step - 1] for step, run in zip(values, rates[lr], strict=True)
                ]
                for threshold, values in reached.items()
            },
            "final_loss": final(lr),
            "held_out": {
                measure: [run["held_out"].get(measure) for run in rates[lr]]
                for measure in next((run["held_out"] for run in rates[lr] if run["held_out"]), {})
            },
            "parameters": rates[lr][0]["parameters"],
        }
    return result


def ratio_bar(
    name: str, summary: Mapping[str, Any], peers: Sequence[str], limit: float, steps: int, target: float
) -> dict[str, Any] | None:
    """Steps to the target of the fastest of `peers` over those of ReZero; None where one of them has no run.

    A peer that does not reach it counts as if it had at the end of the budget: the true ratio is larger. Where ReZero
    does not, there is no ratio.
    """
    if any(method not in summary for method in ("rezero", *peers)):
        return None
    own = median(summary["rezero"]["steps"][str(target)])
    theirs = [median(summary[peer]["steps"][str(target)]) for peer in peers]
    fastest = min(math.inf if value is None else value for value in theirs)
    what = f"{name}: steps of {' or '.join(peers)} over ReZero's, to {target:g}"
    if math.isinf(fastest):
        what += f" (not reached by them in {steps} steps" + (")" if own is None else ": more than)")
    measured = None if own is None else min(fastest, steps) / own
    met = measured is not None and measured >= limit
    return {"what": what, "measured": measured, "bar": f">= {limit:g}", "met": met}


def steps_bar(name: str, summary: Mapping[str, Any], within: int, target: float) -> dict[str, Any] | None:
    """ReZero's steps to the target; None without a run."""
    if "rezero" not in summary:
        return None
    own = median(summary["rezero"]["steps"][str(target)])
    what = f"{name}: steps of ReZero to {target:g}"
    return {"what": what, "measured": own, "bar": f"<= {within}", "met": own is not None and own <= within}


def to_table(summary: Mapping[str, Any], thresholds: Sequence[float], target: float) -> str:
    """Markdown: median [least to most] over the seeds."""
    heads = ["method", "rate", "seeds", *(f"steps to {threshold:g}" for threshold in thresholds)]
    heads += [f"seconds to {target:g}", "last loss"]
    measures = list(dict.fromkeys(measure for entry in summary.values() for measure in entry["held_out"]))
    heads += [f"held-out {measure.replace('_', ' ')}" for measure in measures] + ["diverged, all rates"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for method, entry in summary.items():
        rate = f"{entry['lr']:g}" + (" (edge)" if entry["at_edge"] else "")
        cells = [method.replace("_", " "), rate, str(len(entry["seeds"]))]
        cells += [spread(entry["steps"][str(threshold)], ".0f") for threshold in thresholds]
        cells += [spread(entry["seconds"][str(target)], ".1f"), spread(entry["final_loss"], ".3f")]
        cells += [spread(entry["held_out"].get(measure, [None]), ".3f") for measure in measures]
        cells.append(f"{entry['diverged']} of {entry['runs']}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float | None], form: str) -> str:
    """The median, and the least and the most where they differ; a dash is never."""

    def show(value: float | None) -> str:
        return "-" if value is None else f"{value:{form}}"

    ordered = sorted(values, key=lambda value: math.inf if value is None else value)
    least, most = show(ordered[0]), show(ordered[-1])
    return show(median(values)) if least == most else f"{show(median(values))} [{least} to {most}]"
