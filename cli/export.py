"""Make a self-contained Hub repository out of a model folder: weights, tokenizer, code and card.

    seqzoo export runs/demo/student exports/my-model
    seqzoo export runs/demo/student exports/my-model --license mit

The result loads with plain transformers and trust_remote_code=True, where seqzoo is not installed.
"""

import argparse
from pathlib import Path

from seqzoo.hub_cards.model_folder import WEIGHTS_LICENSE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="folder of a training run or of save_pretrained")
    parser.add_argument("out", type=Path, help="folder to make; must not exist yet, or be empty")
    parser.add_argument(
        "--license", default=WEIGHTS_LICENSE, help="licence of the weights, as the Hub names it (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from huggingface_hub import ModelCard

    from seqzoo.hub_cards.export import export

    for path in export(args.model, args.out, license=args.license):
        print(path)
    card = ModelCard.load(args.out / "README.md").data
    # A pipeline generates 256 tokens unless told: more than a small model has positions.
    example = {
        "text-generation": '"The history of", max_new_tokens=50',
        "text-classification": '"The history of"',
        "image-classification": '"picture.png"',
    }.get(card.pipeline_tag)
    if example is None:
        print(f"\n{args.out / 'README.md'} says how to use it")
        return 0
    remote_code = ", trust_remote_code=True" if "custom_code" in card.tags else ""
    print(f"""
from transformers import pipeline
pipe = pipeline("{card.pipeline_tag}", model="{args.out}"{remote_code})
print(pipe({example}))""")
    return 0
