"""What the zoo offers: every packaged recipe, how big its model is, how good, under what licence, and where it is."""

from pathlib import Path
from typing import Any

from seqzoo.data.text import EMBEDDED, EMBEDDED_LICENSE
from seqzoo.hub_cards.card import read_metrics
from seqzoo.hub_cards.model_folder import WEIGHTS_LICENSE
from seqzoo.trainers.recipe import load_recipe, packaged_recipes
from seqzoo.trainers.recipe_model import weightless_model


def list_models(runs: str | Path = "runs") -> list[dict[str, Any]]:
    """One entry a packaged recipe, in the order of their names. Nothing is downloaded and no weight is read.

    No number is known but those that runs measured: a recipe of which `runs` has a finished run tells what the newest
    one wrote to its `metrics.json`; `measured` of every other recipe is None, and its `parameters` are counted on a
    model without storage.

    Args:
        runs (`str` or `Path`, *optional*, defaults to `"runs"`):
            A folder, searched at any depth, that may be missing.

    Returns:
        `list[dict]`, with the keys

        - `model_type`, `recipe` (for `seqzoo train`), `class` of the model and `parameters`;
        - `measured`: None, or `metric` (bits per byte, lower is better), `value`, `on` (the text whose held-out part
          was read), `steps`, `date` and `run` (its folder);
        - `license` of the weights, when they are exported without another, and `data_license` of the text that they
          are learnt from, None where nobody said;
        - `weights`: id on the Hub, where the run pushed it; the run's folder; or None, where it has to be trained.
    """
    newest = _newest_runs(Path(runs))
    return [_entry(name, newest.get(name)) for name in packaged_recipes()]


def _entry(name: str, run: tuple[Path, dict[str, Any]] | None) -> dict[str, Any]:
    recipe = load_recipe(name)
    model = weightless_model(recipe)
    entry = {
        "model_type": recipe.model.model_type,
        "recipe": name,
        "class": type(model).__name__,
        "parameters": model.num_parameters(),
        "measured": None,
        "license": WEIGHTS_LICENSE,
        "data_license": recipe.data.license or (EMBEDDED_LICENSE if recipe.data.source == EMBEDDED else None),
        "weights": None,
    }
    if run:
        folder, metrics = run
        entry |= {
            "parameters": metrics["parameters"],
            "measured": {
                "metric": "bits_per_byte",
                "value": metrics["evaluation"]["bits_per_byte"],
                "on": metrics["data"]["source"],
                "steps": metrics["training"]["steps"],
                "date": metrics["date"],
                "run": str(folder),
            },
            "data_license": metrics["data"].get("license"),
            "weights": metrics.get("hub", str(folder)),
        }
    return entry


def _newest_runs(root: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Recipe -> folder and metrics of its newest finished run; what is no whole `metrics.json` of a run is no run."""
    newest = {}
    for path in sorted(root.rglob("metrics.json")):
        try:
            metrics = read_metrics(path)
        except ValueError:
            continue
        name = metrics.get("recipe")
        if name not in newest or metrics["date"] > newest[name][1]["date"]:
            newest[name] = path.parent, metrics
    return newest
