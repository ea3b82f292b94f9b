"""List the zoo: recipes, parameters, what was measured, licence, where the weights are.

    seqzoo models                  sizes, and the results of the runs in ./runs
    seqzoo models --runs DIR       the results of the runs in DIR, searched at any depth
    seqzoo models --json           the same as a list, for programs

Nothing is downloaded. Only numbers that a run wrote to its metrics.json are shown; of several runs of a recipe, those
of the newest.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", default="runs", help="folder with finished runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    import json
    from itertools import groupby
    from pathlib import Path

    import seqzoo

    if args.runs != "runs" and not Path(args.runs).is_dir():
        raise FileNotFoundError(f"there is no folder {args.runs}")
    models = seqzoo.list_models(args.runs)
    if args.json:
        print(json.dumps(models, indent=2))
        return 0
    print(COLUMNS.format("", "parameters", "held out", "licence", "weights"))
    for (model_type, class_name), entries in groupby(models, key=lambda entry: (entry["model_type"], entry["class"])):
        print(f"{model_type} ({class_name})")
        for entry in entries:
            print(row(entry))
    print("\nLower bits per byte are better, on the same data only (--json names it).")
    if any(entry["measured"] and entry["measured"]["changed"] for entry in models):
        print("* by a run that changed the recipe (--json names the keys)")
    if any(entry["parameters"] is None for entry in models):
        print("? starts from a model that is to be trained first")
    print("What is to be trained: seqzoo train MODEL/RECIPE, such as gpt2/demo")
    return 0


COLUMNS = "  {:18} {:>10}  {:17} {:10}  {}"


def row(entry: dict) -> str:
    measured, parameters = "not measured", "?"
    if entry["measured"]:
        unit = entry["measured"]["metric"].replace("bits_per_byte", "bits/byte")
        measured = f"{entry['measured']['value']:.3f} {unit}" + ("*" if entry["measured"]["changed"] else "")
    if entry["parameters"] is not None:
        parameters = f"{entry['parameters'] / 1e6:,.1f} M"
    return COLUMNS.format(
        entry["recipe"].rpartition("/")[2],
        parameters,
        measured,
        entry["license"],
        entry["weights"] or "to be trained",
    )
