"""ReZero: its claims against tuned peers, and how signals pass through new networks.

seqzoo rezero claims --scale cpu             every run of the comparison, hours; stopped, it goes on
seqzoo rezero claims --only fc resnet        a part of it
seqzoo rezero claims --report                tables and figures of what has run so far
seqzoo rezero jacobian --out jacobian.png    singular values of Jacobians at initialisation by depth and method
"""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    claims = commands.add_parser(
        "claims",
        help="steps and seconds to fixed thresholds, each method at its best rate",
        description="Train every method of each claim at every rate and seed that is still missing; then write "
        "claims.json, claims.md and figures of all that is there. A run is one JSON.",
    )
    claims.add_argument("--scale", choices=("cpu", "gpu"), default="cpu", help="sizes and budgets (%(default)s)")
    claims.add_argument("--only", nargs="+", default=[], metavar="CLAIM", help="names, or what they begin with: fc")
    claims.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help="only these of each claim")
    claims.add_argument("--report", action="store_true", help="run nothing, report what is there")
    claims.add_argument("--out", default="runs/rezero_claims", metavar="DIR", help="(%(default)s)")
    jacobian = commands.add_parser("jacobian", help="a figure of singular values at initialisation")
    jacobian.add_argument("--depths", nargs="+", type=int, default=[4, 16, 64], metavar="LAYERS", help="%(default)s")
    jacobian.add_argument("--out", default="jacobian.png", metavar="PNG", help="(%(default)s)")


def run(args: argparse.Namespace) -> int:
    return {"claims": _claims, "jacobian": _jacobian}[args.command](args)


def _claims(args: argparse.Namespace) -> int:
    from pathlib import Path

    from seqzoo.benchmarks.rezero_claims import CLAIMS, chosen, run_claims, write_report

    if args.report and args.methods:
        raise ValueError("--methods chooses what runs, and --report runs nothing: leave one of them out")
    claims = chosen(CLAIMS[args.scale], args.only)
    folder = Path(args.out)
    if not args.report:
        run_claims(folder, claims, args.methods, progress=lambda line: print(line, file=sys.stderr, flush=True))
    print(write_report(folder, claims))
    return 0


def _jacobian(args: argparse.Namespace) -> int:
    from pathlib import Path

    from seqzoo.benchmarks.figures import draw_singular_values
    from seqzoo.benchmarks.rezero_jacobian import new_networks

    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_singular_values(new_networks(args.depths), out)
    print(args.out)
    return 0
