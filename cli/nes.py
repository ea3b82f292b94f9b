"""NES music: convert songs between the formats of the NES Music Database.

seqzoo nes convert IN... --to FORMAT --out DIR   files and folders; all cores; a broken file does not stop the rest
seqzoo nes benchmark SONGS --out DIR             the tasks of NES-MDB: baselines and models, as tables
"""

import argparse
import sys


FORMATS = ("vgm", "ndr", "ndf", "nlm", "rawsco", "exprsco", "seprsco", "blndsco", "midi")
TASKS = ("composition", "blended_composition", "performance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    convert = commands.add_parser(
        "convert",
        help="files of one format into files of another",
        description="Convert songs. Reads .vgm .vgz .ndr.txt .ndf.txt .nlm.txt .rawsco.npz .exprsco.npz .seprsco.npz "
        ".blndsco.json .mid and the published data set's .pkl files. Exit code 1 if a file could not be converted.",
    )
    convert.add_argument("inputs", nargs="+", metavar="IN", help="a file, or a folder with all songs in it and below")
    convert.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    convert.add_argument("--out", required=True, metavar="DIR", help="where <name>.<suffix of the format> is written")
    convert.add_argument(
        "--rate",
        type=rate,
        help="steps a second of scores (default: 24 from 44.1 kHz, else the input's own), 44100 or `adaptive`",
    )
    convert.add_argument(
        "--clock", type=int, default=1789773, help="of the CPU for which scores are written (%(default)s)"
    )
    convert.add_argument(
        "--low-notes",
        choices=("reject", "clip", "wrap"),
        default="reject",
        help="notes that are too low for a pulse: an error, the lowest that sounds, or a wrong pitch as in the "
        "reference (%(default)s)",
    )
    convert.add_argument(
        "--as-it-is", action="store_true", help="do not simplify VGM files: keep data blocks and the sample channel"
    )
    convert.add_argument("--jobs", type=int, help="processes (default: one a core)")
    convert.add_argument("--max-bytes", type=int, default=8 * 2**20, help="refuse larger files (%(default)s)")
    convert.add_argument("--max-seconds", type=float, default=1200.0, help="refuse longer songs (%(default)s)")

    benchmark = commands.add_parser(
        "benchmark",
        help="the tasks of NES-MDB: baselines, and models trained by their recipes",
        description="Train and measure the models of the tasks of NES-MDB, beside baselines. Writes benchmark.json, "
        "benchmark.md and benchmark.png. Stopped, it goes on where it was; finished runs are not done again.",
    )
    benchmark.add_argument(
        "source", metavar="SONGS", help="a folder with train, valid and test, a published archive, or a copy of one"
    )
    benchmark.add_argument("--out", default="runs/nes_benchmark", metavar="DIR", help="results (%(default)s)")
    benchmark.add_argument("--task", action="append", metavar="TASK", help=f"of {', '.join(TASKS)}; all without")
    benchmark.add_argument("--steps", type=int, help="training steps of every model (default: those of its recipe)")


def run(args: argparse.Namespace) -> int:
    return {"convert": _convert, "benchmark": _benchmark}[args.command](args)


def _benchmark(args: argparse.Namespace) -> int:
    from pathlib import Path

    from seqzoo.trainers.nes.benchmark import run_benchmark

    unknown = set(args.task or ()) - set(TASKS)
    if unknown:
        raise ValueError(f"there is no task {', '.join(sorted(unknown))}; choose from {', '.join(TASKS)}")
    overrides = []
    if args.steps is not None:
        overrides = [f"training.steps={args.steps}", f"training.warmup_steps={args.steps // 10}"]
    run_benchmark(
        args.source,
        Path(args.out),
        tasks=args.task or TASKS,
        overrides=overrides,
        progress=lambda line: print(line, file=sys.stderr),
    )
    print((Path(args.out) / "benchmark.md").read_text(encoding="utf-8"))
    return 0


def _convert(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seqzoo.data.nes.batch import Job, convert_files
    from seqzoo.data.nes.errors import Limits

    job = Job(
        to=args.to,
        options={
            "rate": args.rate,
            "clock": args.clock,
            "low_notes": args.low_notes,
            "simplify": not args.as_it_is,
        },
        limits=Limits(args.max_bytes, args.max_seconds),
    )
    failures = []
    done = 0
    outcomes, total = convert_files(args.inputs, args.out, job, processes=args.jobs)
    for outcome in tqdm(outcomes, total=total, unit="file", file=sys.stderr, disable=None):
        if outcome.error is None:
            done += 1
        else:
            failures.append(outcome)
    for failure in sorted(failures, key=lambda failure: failure.source):
        print(f"failed: {failure.error}", file=sys.stderr)
    print(f"{done} of {total} files converted to {args.to} in {args.out}")
    return 1 if failures else 0


def rate(text: str) -> float | str:
    """The value of `--rate`."""
    return text if text == "adaptive" else float(text)
