"""What the zoo offers: every packaged recipe, how big its model is, how good, under what licence, and where it is."""

from pathlib import Path
from typing import Any

from seqzoo.data.text import EMBEDDED, EMBEDDED_LICENSE
from seqzoo.hub_cards.card import read_metrics
from seqzoo.hub_cards.model_folder import WEIGHTS_LICENSE
from seqzoo.trainers.recipe import Recipe, load_recipe, packaged_recipes
from seqzoo.trainers.recipe_model import check_sources
from seqzoo.trainers.run import task_module
from seqzoo.trainers.run_folder import RECIPE_FILE, changed_keys


# What an evaluation is known by: the first of these that it has.
_HEADLINES = ("bits_per_byte", "accuracy", "loss")


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

        - `model_type`, `recipe` (for `seqzoo train`), `class` of the model and `parameters` (None where the model that
          the recipe starts from is not there yet);
        - `measured`: None, or `metric` (`bits_per_byte` and `loss`: lower is better; `accuracy`: higher), `value`,
          `on` (the data whose held-out part was read), `steps`, `date`, `run` (its folder), and `changed`: keys in
          which the run's own recipe differs from the packaged one;
        - `license` of the weights, when they are exported without another, and `data_license` of the text that they
          are learnt from, None where nobody said;
        - `weights`: id on the Hub, where the run pushed it; the run's folder; or None, where it has to be trained.
    """
    newest = _newest_runs(Path(runs))
    return [_entry(name, newest.get(name)) for name in packaged_recipes()]


def _entry(name: str, run: tuple[Path, dict[str, Any]] | None) -> dict[str, Any]:
    recipe = load_recipe(name)
    model = task_module(recipe).weightless_model(recipe)
    try:
        check_sources(recipe)
        parameters = model.num_parameters()
    except FileNotFoundError:  # the model that it starts from decides the size, and has to be trained first
        parameters = None
    entry = {
        "model_type": recipe.model.model_type,
        "recipe": name,
        "class": type(model).__name__,
        "parameters": parameters,
        "measured": None,
        "license": WEIGHTS_LICENSE,
        "data_license": recipe.data.license or (EMBEDDED_LICENSE if recipe.data.source == EMBEDDED else None),
        "weights": None,
    }
    if run:
        folder, metrics = run
        metric = next(name for name in _HEADLINES if name in metrics["evaluation"])
        entry |= {
            "parameters": metrics["parameters"],
            "measured": {
                "metric": metric,
                "value": metrics["evaluation"][metric],
                "on": metrics["data"]["source"],
                "steps": metrics["training"]["steps"],
                "date": metrics["date"],
                "run": str(folder),
                "changed": _changed(recipe, folder),
            },
            "data_license": metrics["data"].get("license"),
            "weights": metrics.get("hub", str(folder)),
        }
    return entry


def _changed(recipe: Recipe, folder: Path) -> list[str]:
    saved = folder / RECIPE_FILE
    return changed_keys(recipe, load_recipe(saved)) if saved.is_file() else []


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
