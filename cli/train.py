"""Train a model by a recipe: a YAML file, or the name of a packaged one such as gpt2/demo."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file, or the name of a packaged recipe such as gpt2/demo")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes, such as training.lr=3e-4")
    parser.add_argument(
        "--dry-run", action="store_true", help="build the model without weights and push one fake batch through it"
    )


def run(args: argparse.Namespace) -> int:
    from seqzoo.trainers.run import execute

    return execute(args.recipe, args.overrides, args.dry_run)
