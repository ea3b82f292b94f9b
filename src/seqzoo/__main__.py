"""The `seqzoo` command: one group a module of `cli/`, which is imported only when the group is used or listed."""

import argparse
import sys
from importlib import import_module

from seqzoo import __version__
from seqzoo.cli import one_line


GROUPS = ("demo", "models", "train", "convert", "export", "kernels", "push", "nes", "rezero", "bench")


def build_parser() -> argparse.ArgumentParser:
    """All groups with their options. `cli/` modules import nothing heavy, so this costs milliseconds."""
    parser = argparse.ArgumentParser(
        prog="seqzoo", description="A Hugging Face-native model zoo for sequence transfer learning."
    )
    parser.add_argument("--version", action="version", version=f"seqzoo {__version__}")
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    for name in GROUPS:
        module = import_module(f"seqzoo.cli.{name}")
        summary = module.__doc__.splitlines()[0]
        group = groups.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(group)
        group.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns its exit code: 0 done, 1 a named error (one line on stderr), 2 wrong usage, 75 not
    finished but to be started again (`training.max_minutes`).
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse gives up on positional arguments that come after an option.
    overrides = [argument for argument in rest if "=" in argument and not argument.startswith("-")]
    if len(overrides) < len(rest) or (rest and "overrides" not in args):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += overrides
    try:
        return args.run(args)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        print(f"seqzoo {args.group}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"seqzoo {args.group}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
