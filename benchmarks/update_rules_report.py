"""What the measurements of `update_rules` say: paired differences, verdicts, tables and sentences.

Nothing here is written by hand for one outcome: a sentence follows from the numbers, whichever they are.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any


SOFTMAX, DECAY = "softmax GPT-2", "decay"
OTHER_RULES = ("gated", "delta", "sum")

# measure -> (heading, whether less is better, decimals)
MEASURES = {
    "from_scratch": ("bits per byte, from scratch", True, 3),
    "converted": ("bits per byte, converted", True, 3),
    "share_kept": ("share kept", False, 3),
    "recall": ("recall", False, 3),
}


def compare(values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Each variant beside decay, seed by seed.

    Args:
        values: variant -> measure -> seed -> value.

    Returns:
        measure -> variant -> `differences` (seed -> the variant's value minus decay's) and `verdict`: `better` or
        `worse` than decay where all seeds agree, else `no difference`.
    """
    result = {}
    for measure, (_, less_is_better, _) in MEASURES.items():
        base = values[DECAY].get(measure, {})
        result[measure] = {}
        for name, measures in values.items():
            if name == DECAY or not measures.get(measure):
                continue
            differences = {seed: value - base[seed] for seed, value in measures[measure].items()}
            result[measure][name] = {
                "differences": differences,
                "verdict": verdict(list(differences.values()), less_is_better),
            }
    return result


def verdict(differences: Sequence[float], less_is_better: bool) -> str:
    """`better` or `worse` if every difference has that sign, else `no difference`."""
    if less_is_better:
        differences = [-difference for difference in differences]
    if all(difference > 0 for difference in differences):
        return "better"
    if all(difference < 0 for difference in differences):
        return "worse"
    return "no difference"


def papers_order(comparison: Mapping[str, Mapping[str, Any]], rules: Mapping[str, str]) -> dict[str, Any]:
    """Whether decay is ahead of every variant of the other rules, which is the paper's order.

    Args:
        comparison: variant -> `verdict`, of one measure.
        rules: variant -> its update rule, for the variants that have one.

    Returns:
        `behind`, `level` and `ahead` (of decay): the names of the variants; `appears`: whether all of them are behind
        and each rule has one.
    """
    places = {"worse": [], "no difference": [], "better": []}
    for name, entry in comparison.items():
        if rules.get(name) in OTHER_RULES:
            places[entry["verdict"]].append(name)
    covered = {rules[name] for name in places["worse"]} == set(OTHER_RULES)
    return {
        "behind": places["worse"],
        "level": places["no difference"],
        "ahead": places["better"],
        "appears": covered and not (places["no difference"] or places["better"]),
    }


def to_markdown(result: dict) -> str:
    """The table, the paired differences, the sentences and the plot."""
    return "\n\n".join(
        [
            _settings(result["settings"]),
            _table(result),
            _differences(result),
            "\n".join(f"- {sentence}" for sentence in sentences(result)),
            "![Update rules, a dot a seed](results/update_rules.png)",
        ]
    )


def _settings(settings: dict[str, Any]) -> str:
    size, recall = settings["size"], settings["recall"]
    tokens = settings["batch_size"] * settings["sequence_length"]
    return (
        f"{size['n_layer']} layers of width {size['n_embd']} with {size['n_head']} heads, {settings['vocab_size']} "
        f"tokens of vocabulary, text `{settings['source']}`, one thread, seeds "
        f"{', '.join(map(str, settings['seeds']))}. From scratch: {settings['steps'] * tokens:,} tokens "
        f"({settings['steps']} steps of {settings['batch_size']} x {settings['sequence_length']}) at a rate of "
        f"{settings['lr']:g}. Converted: the softmax model of that seed with its attention swapped, and "
        f"{settings['fine_tuning_steps'] * tokens:,} tokens of fine-tuning at {settings['fine_tuning_lr']:g}; the "
        "softmax row is trained on with the same tokens, and share kept is its perplexity over the variant's. The "
        "rates are one for all variants, not tuned for each. Recall: multi-query associative recall "
        f"({settings['recall_size']['n_layer']} layers of width {settings['recall_size']['n_embd']}, "
        f"{settings['recall_steps']} steps of {settings['recall_batch_size']} x {recall['length']}), trained on "
        f"{max(recall['pairs'])} pairs of {recall['keys']} keys and as many values; the share of queries that are "
        "answered right. The setting is one that softmax attention learns within this budget, found on other seeds: "
        "the column tells who learns the task there, and nothing of capacity. Means over the seeds; time and state of "
        "a token with random weights."
    )


def _table(result: dict) -> str:
    contexts = list(next(iter(result["decoding"].values())))
    pairs = result["settings"]["recall"]["pairs"]
    heads = [heading for measure, (heading, _, _) in MEASURES.items() if measure != "recall"]
    heads += [f"recall, {count} pairs" for count in pairs]
    heads += [f"ms a token at {int(context):,}" for context in contexts]
    heads += [f"state at {int(context):,} (kB)" for context in contexts]
    heads = ["variant", "stands for", "parameters (thousands)", *heads]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, variant in result["variants"].items():
        values = result["values"][name]
        cells = [
            f"{mean(values[measure].values()):.{decimals}f}" if values.get(measure) else ""
            for measure, (_, _, decimals) in MEASURES.items()
            if measure != "recall"
        ]
        recall = values.get("recall_by_pairs", {})
        cells += [f"{mean(recall[str(count)].values()):.3f}" if recall else "" for count in pairs]
        decoding = result["decoding"].get(name)
        cells += [f"{decoding[context]['ms_per_token']:.2f}" if decoding else "" for context in contexts]
        cells += [f"{decoding[context]['cache_bytes'] / 1e3:,.0f}" if decoding else "" for context in contexts]
        cells = [name, variant["about"], f"{variant['parameters'] / 1e3:.0f}", *cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _differences(result: dict) -> str:
    lines = [
        "Paired differences: the variant minus decay, of each seed. They count as one only where all signs agree; "
        "**better** and *worse* are the variant's place beside decay. Recall is that of the most pairs.",
        "",
        "| variant | " + " | ".join(heading for heading, _, _ in MEASURES.values()) + " |",
        "|---|" + "---|" * len(MEASURES),
    ]
    for name in result["variants"]:
        if name == DECAY:
            continue
        cells = []
        for measure, (_, _, decimals) in MEASURES.items():
            entry = result["comparison"][measure].get(name)
            if entry is None:
                cells.append("")
                continue
            numbers = ", ".join(f"{value:+.{decimals}f}" for value in entry["differences"].values())
            mark = {"better": "**better**", "worse": "*worse*", "no difference": "no difference"}[entry["verdict"]]
            cells.append(f"{numbers}: {mark}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sentences(result: dict) -> list[str]:
    """What the numbers say, in words."""
    lines = []
    for measure, what in (("from_scratch", "From scratch"), ("converted", "Converted")):
        order = result["papers_order"][measure]
        if order["appears"]:
            lines.append(
                f"{what}, the paper's order appears at this scale: decay is ahead of every variant of gated, delta "
                "and sum for all seeds."
            )
            continue
        parts = [
            f"{clause} {', '.join(order[place])}"
            for place, clause in (
                ("behind", "decay is ahead of"),
                ("level", "the seeds disagree about"),
                ("ahead", "decay is behind"),
            )
            if order[place]
        ]
        missing = [rule for rule in OTHER_RULES if rule not in result["rules"].values()]
        if missing:
            parts.append(f"not measured: {', '.join(missing)}")
        lines.append(
            f"{what}, the paper's order (decay ahead of gated, delta and sum) does not appear at this scale: "
            f"{'; '.join(parts)}."
        )
    kept = {
        name: mean(values["share_kept"].values())
        for name, values in result["values"].items()
        if name != SOFTMAX and values.get("share_kept")
    }
    best, worst = max(kept, key=kept.get), min(kept, key=kept.get)
    lines.append(
        f"Converted, {best} keeps most of the teacher ({kept[best]:.1%}) and {worst} least ({kept[worst]:.1%}); decay "
        f"keeps {kept[DECAY]:.1%}."
    )
    if kept[DECAY] > 1:
        lines.append(
            "A share above 1 means that the teacher had learnt little within this budget: the memory learns faster "
            "than attention does. What it keeps of a well trained teacher this table cannot tell, nor what aligning "
            "with or distilling from one is worth."
        )
    recall = {
        name: mean(values["recall"].values()) for name, values in result["values"].items() if values.get("recall")
    }
    most = max(result["settings"]["recall"]["pairs"])
    best, worst = max(recall, key=recall.get), min(recall, key=recall.get)
    lines.append(
        f"Of {most} pairs, softmax attention recalls {recall[SOFTMAX]:.1%} and decay {recall[DECAY]:.1%}; most has "
        f"{best} ({recall[best]:.1%}), least {worst} ({recall[worst]:.1%})."
    )
    if recall[SOFTMAX] < 0.99:
        lines.append("Softmax attention does not solve the recall task here, so recall says little in this table.")
    return lines
