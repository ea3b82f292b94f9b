"""Convert a checkpoint of another model into one of the zoo's.

seqzoo convert gpt2 SRC OUT [field=value ...]   GPT-2 into Decaying Fast Weight GPT-2
"""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    gpt2 = sources.add_parser(
        "gpt2", help="GPT-2 into Decaying Fast Weight GPT-2, to be fine-tuned with `seqzoo train`"
    )
    gpt2.add_argument("src", help="folder or Hub id of a GPT-2")
    gpt2.add_argument("out", help="new folder")
    gpt2.add_argument(
        "overrides", nargs="*", metavar="field=value", help="config fields, e.g. position_embedding_type=none"
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import yaml
    from transformers import AutoTokenizer

    from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel

    overrides = {}
    for override in args.overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"{override!r} is not of the form field=value")
        overrides[name] = yaml.safe_load(value)
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another")
    if args.src.startswith(("/", ".", "~")) and not Path(args.src).is_dir():
        raise FileNotFoundError(f"there is no folder {args.src}")
    model = DecayFastWeightGPT2LMHeadModel.from_gpt2(args.src, **overrides)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:  # all or nothing
        folder = Path(scratch) / out.name
        model.save_pretrained(folder)
        if has_tokenizer(args.src):
            try:
                AutoTokenizer.from_pretrained(args.src).save_pretrained(folder)
            except ValueError as error:
                raise ValueError(f"the tokenizer of {args.src} cannot be read: {error}") from error
        else:
            print(f"{args.src} has no tokenizer; only the model is written", file=sys.stderr)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    print(f"{out}: {model.num_parameters():,} parameters; new ones, to be fine-tuned:")
    for name in model.new_parameters:
        print(f"  {name}")
    return 0


def has_tokenizer(src: str) -> bool:
    """Whether a folder has a tokenizer's files; from nothing, the library would make an empty tokenizer."""
    from pathlib import Path

    return not Path(src).is_dir() or any((Path(src) / name).is_file() for name in ("tokenizer.json", "vocab.json"))
