"""Make a self-contained Hub repository out of a model folder: weights, tokenizer, code and card.

    seqzoo export runs/demo/student exports/my-model
    seqzoo export runs/demo/student exports/my-model --license mit

The result loads with plain transformers and trust_remote_code=True, where seqzoo is not installed.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="folder of a training run or of save_pretrained")
    parser.add_argument("out", type=Path, help="folder to make; must not exist yet, or be empty")
    parser.add_argument(
        "--license", default="apache-2.0", help="licence of the weights, as the Hub names it (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from huggingface_hub import ModelCard

    from seqzoo.hub_cards.export import export

    for path in export(args.model, args.out, license=args.license):
        print(path)
    task = ModelCard.load(args.out / "README.md").data.pipeline_tag
    print(f"""
from transformers import pipeline
pipe = pipeline("{task}", model="{args.out}", trust_remote_code=True)
print(pipe("The history of"))""")
    return 0
