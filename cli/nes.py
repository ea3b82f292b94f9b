"""NES music: convert songs between the formats of the NES Music Database.

seqzoo nes convert IN... --to FORMAT --out DIR   files and folders; all cores; a broken file does not stop the rest
seqzoo nes dataset IN --format FORMAT --out DIR  a published archive or a folder of songs as Parquet files with a card
"""

import argparse
import sys


FORMATS = ("vgm", "ndr", "ndf", "nlm", "rawsco", "exprsco", "seprsco", "blndsco", "midi")
DATASETS = ("exprsco", "seprsco", "blndsco", "midi", "vgm", "nlm", "ndr", "ndf")


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
    _add_dataset(commands)


def _add_dataset(commands) -> None:
    dataset = commands.add_parser(
        "dataset",
        help="a published archive or a folder of songs as a data set with its card",
        description="Write a data set that plain `datasets` loads: Parquet files by split and README.md, the card. "
        "Folders train, valid and test make splits; without them everything is train.",
    )
    dataset.add_argument("source", metavar="IN", help="a published archive, a folder of songs, or an Arrow copy")
    dataset.add_argument("--format", default="exprsco", choices=DATASETS, help="of the songs (%(default)s)")
    dataset.add_argument("--out", required=True, metavar="DIR", help="a folder that does not exist yet")
    dataset.add_argument("--rate", type=rate, help="steps a second of scores, as in `seqzoo nes convert`")
    dataset.add_argument(
        "--composers", metavar="FILE", help="CSV (name,composers) or JSON: games or songs to their composers"
    )
    dataset.add_argument(
        "--split-by-composer",
        nargs=3,
        type=float,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="make splits of these fractions that share no composer and no game",
    )
    dataset.add_argument("--seed", type=int, default=0, help="of --split-by-composer (%(default)s)")
    dataset.add_argument("--skip-broken", action="store_true", help="leave out what cannot be read, and list it")
    dataset.add_argument(
        "--any-archive", action="store_true", help="read an archive that is not a published one by its SHA-256"
    )
    dataset.add_argument("--jobs", type=int, help="processes (default: one a core)")
    dataset.add_argument("--cache-dir", metavar="DIR", help="of the Arrow files in between (default: of `datasets`)")


def run(args: argparse.Namespace) -> int:
    return {"convert": _convert, "dataset": _dataset}[args.command](args)


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


def _dataset(args: argparse.Namespace) -> int:
    import os
    from pathlib import Path

    from seqzoo.data.nes.composer_split import composer_disjoint_split
    from seqzoo.data.nes.dataset import load_nesmdb
    from seqzoo.hub_cards.nes_dataset import export_dataset

    if Path(args.out).exists():
        raise FileExistsError(f"{args.out} exists already: name another folder, or remove it")
    songs = load_nesmdb(
        args.source,
        args.format,
        rate=args.rate,
        composers=args.composers,
        verify=not args.any_archive,
        on_bad_file=(lambda reason: print(f"left out: {reason}", file=sys.stderr)) if args.skip_broken else None,
        num_proc=args.jobs or os.cpu_count(),
        cache_dir=args.cache_dir,
    )
    if args.split_by_composer:
        songs = composer_disjoint_split(songs, args.split_by_composer, args.seed)
    export_dataset(songs, args.out, args.format, source=args.source)
    counts = ", ".join(f"{len(part)} {split}" for split, part in songs.items())
    print(f"{counts} songs written to {args.out}")
    return 0


def rate(text: str) -> float | str:
    """The value of `--rate`."""
    return text if text == "adaptive" else float(text)
