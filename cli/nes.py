"""NES music: convert songs between the formats of the NES Music Database, make audio and pictures of them.

seqzoo nes convert IN... --to FORMAT --out DIR   into another format
seqzoo nes render IN... --out DIR                into WAV or FLAC, --stems: each voice too
seqzoo nes plot IN... --out DIR                  into piano rolls, --html: with pages that play them
seqzoo nes dataset IN --out DIR                  a published archive or a folder as a data set with its card
seqzoo nes benchmark SONGS --out DIR             the tasks of NES-MDB: baselines and models, as tables

IN are files, and folders with songs in and below them. All cores work; a broken file does not stop the rest.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from seqzoo.cli import one_line


if TYPE_CHECKING:
    from seqzoo.data.nes.jobs import Job
    from seqzoo.data.nes.rendering import Rendering


FORMATS = ("vgm", "ndr", "ndf", "nlm", "rawsco", "exprsco", "seprsco", "blndsco", "midi")
DATASETS = ("exprsco", "seprsco", "blndsco", "midi", "vgm", "nlm", "ndr", "ndf")
_READS = (
    "Reads .vgm .vgz .ndr.txt .ndf.txt .nlm.txt .rawsco.npz .exprsco.npz .seprsco.npz .blndsco.json .mid and the "
    "published data set's .pkl files. Exit code 1 if a file could not be done."
)
TASKS = ("composition", "blended_composition", "performance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    convert = commands.add_parser(
        "convert", help="files of one format into files of another", description=f"Convert songs. {_READS}"
    )
    convert.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    _add_common(convert, rate_help="steps a second of scores (default: 24 from 44.1 kHz, else the input's own)")
    convert.add_argument(
        "--as-it-is", action="store_true", help="do not simplify VGM files: keep data blocks and the sample channel"
    )
    convert.add_argument(
        "--keep-tags", action="store_true", help="from VGM to VGM: keep the GD3 tag, which the reference drops"
    )
    convert.set_defaults(do=_convert)

    render = commands.add_parser("render", help="audio of songs", description=f"Make audio of songs. {_READS}")
    _add_common(render, rate_help="play the score of so many steps a second instead (MIDI: 240 by default)")
    render.add_argument("--flac", action="store_true", help="FLAC instead of WAV; both have 16 bits")
    render.add_argument("--sample-rate", type=int, default=44100, metavar="HZ", help="8000 to 192000 (%(default)s)")
    render.add_argument(
        "--mode",
        choices=("blep", "reference"),
        default="blep",
        help="band-limited steps, or as in the C player of the data set (%(default)s)",
    )
    render.add_argument("--stems", action="store_true", help="also <name>.p1, .p2, .tr and .no: each voice by itself")
    render.add_argument(
        "--linear", action="store_true", help="mix in a straight line instead of as the chip, so that stems sum up"
    )
    render.add_argument("--filters", choices=("nes", "famicom"), help="the circuits behind the chip (default: none)")
    render.add_argument(
        "--loops",
        type=int,
        default=1,
        metavar="N",
        help="how often to play what a VGM marks as its loop; songs without a mark play once (%(default)s)",
    )
    render.add_argument(
        "--fade",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds for which songs with a loop go on after that and fade out (%(default)s)",
    )
    render.set_defaults(do=_render)

    plot = commands.add_parser("plot", help="piano rolls of songs", description=f"Draw songs. {_READS}")
    _add_common(plot, rate_help="steps a second of what is drawn (default: 24 from 44.1 kHz, else the input's own)")
    plot.add_argument("--svg", action="store_true", help="SVG instead of PNG")
    plot.add_argument("--html", action="store_true", help="also a page that plays the song; the roll follows")
    plot.set_defaults(do=_plot)

    dataset = commands.add_parser(
        "dataset",
        help="a published archive or a folder of songs as a data set with its card",
        description="Write a data set that plain `datasets` loads: Parquet files by split and README.md, the card. "
        "Folders train, valid and test make splits; without them everything is train.",
    )
    _add_dataset(dataset)
    dataset.set_defaults(do=_dataset)

    benchmark = commands.add_parser(
        "benchmark",
        help="the tasks of NES-MDB: baselines, and models trained by their recipes",
        description="Train and measure the models of the tasks of NES-MDB, beside baselines. Writes benchmark.json, "
        "benchmark.md and benchmark.png. Stopped, it goes on where it was; finished runs are not done again, and "
        "tasks that are not chosen stay as they were measured.",
    )
    benchmark.add_argument(
        "source", metavar="SONGS", help="a folder with train, valid and test, a published archive, or a copy of one"
    )
    benchmark.add_argument(
        "--out", type=folder, default="runs/nes_benchmark", metavar="DIR", help="results (%(default)s)"
    )
    benchmark.add_argument("--task", action="append", metavar="TASK", help=f"of {', '.join(TASKS)}; all without")
    benchmark.add_argument("--steps", type=int, help="training steps of every model (default: those of its recipe)")
    benchmark.set_defaults(do=_benchmark)


def _add_common(parser: argparse.ArgumentParser, rate_help: str) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help="a file, or a folder with all songs in it and below")
    parser.add_argument(
        "--out", type=folder, required=True, metavar="DIR", help="where files named as the songs are written"
    )
    parser.add_argument("--rate", type=rate, help=f"{rate_help}; a number, 44100 or `adaptive`")
    parser.add_argument(
        "--clock", type=int, default=1789773, help="of the CPU for which scores are written (%(default)s)"
    )
    parser.add_argument(
        "--low-notes",
        choices=("reject", "clip", "wrap"),
        default="reject",
        help="notes that are too low for a pulse: an error, the lowest that sounds, or a wrong pitch as in the "
        "reference (%(default)s)",
    )
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument("--max-bytes", type=int, default=8 * 2**20, help="refuse larger files (%(default)s)")
    parser.add_argument("--max-seconds", type=float, default=1200.0, help="refuse longer songs (%(default)s)")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="a published archive, a folder of songs, or an Arrow copy")
    parser.add_argument("--format", default="exprsco", choices=DATASETS, help="of the songs (%(default)s)")
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--rate", type=rate, help="steps a second of scores, as in `seqzoo nes convert`")
    parser.add_argument(
        "--composers", metavar="FILE", help="CSV (name,composers) or JSON: games or songs to their composers"
    )
    parser.add_argument(
        "--split-by-composer",
        nargs=3,
        type=float,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="make splits of these fractions that share no composer and no game",
    )
    parser.add_argument("--seed", type=int, default=0, help="of --split-by-composer (%(default)s)")
    parser.add_argument("--skip-broken", action="store_true", help="leave out what cannot be read, and list it")
    parser.add_argument(
        "--any-archive", action="store_true", help="read an archive that is not a published one by its SHA-256"
    )
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument("--cache-dir", metavar="DIR", help="of the Arrow files in between (default: of `datasets`)")


def run(args: argparse.Namespace) -> int:
    return args.do(args)


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
    from seqzoo.data.nes.jobs import Convert

    options = {**_score_options(args), "simplify": not args.as_it_is, "keep_tags": args.keep_tags}
    return _process(args, Convert(args.to, options), f"converted to {args.to}")


def _render(args: argparse.Namespace) -> int:
    from seqzoo.data.nes.jobs import Render

    how = ("sample_rate", "mode", "linear", "filters", "loops", "fade")
    rendering = _rendering(args, **{name: getattr(args, name) for name in how}, rate=args.rate)
    return _process(args, Render(rendering, "flac" if args.flac else "wav", args.stems), "rendered")


def _plot(args: argparse.Namespace) -> int:
    from seqzoo.data.nes.jobs import Plot

    page = _rendering(args) if args.html else None
    return _process(args, Plot("svg" if args.svg else "png", page, _score_options(args)), "drawn")


def _score_options(args: argparse.Namespace) -> dict[str, Any]:
    return {"rate": args.rate, "clock": args.clock, "low_notes": args.low_notes}


def _rendering(args: argparse.Namespace, **options) -> "Rendering":
    from seqzoo.data.nes.errors import Limits
    from seqzoo.data.nes.rendering import Rendering

    limits = Limits(args.max_bytes, args.max_seconds)
    return Rendering(clock=args.clock, low_notes=args.low_notes, limits=limits, **options)


def _process(args: argparse.Namespace, job: "Job", done: str) -> int:
    """Do a job with all files; say in the end which ones failed, and why."""
    from tqdm import tqdm

    from seqzoo.data.nes.batch import process_files
    from seqzoo.data.nes.errors import Limits

    limits = Limits(args.max_bytes, args.max_seconds)
    outcomes, total = process_files(args.inputs, args.out, job, limits=limits, processes=args.jobs)
    failures = []
    for outcome in tqdm(outcomes, total=total, unit="file", file=sys.stderr, disable=None):
        if outcome.error is not None:
            failures.append(outcome)
    for failure in sorted(failures, key=lambda failure: failure.source):
        print(f"failed: {one_line(failure.error)}", file=sys.stderr)
    print(f"{total - len(failures)} of {total} files {done} in {one_line(args.out)}")
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
        on_bad_file=_print_left_out if args.skip_broken else None,
        num_proc=args.jobs or os.cpu_count(),
        cache_dir=args.cache_dir,
    )
    if args.split_by_composer:
        songs = composer_disjoint_split(songs, args.split_by_composer, args.seed)
    export_dataset(songs, args.out, args.format, source=args.source)
    counts = ", ".join(f"{len(part)} {split}" for split, part in songs.items())
    print(f"{counts} songs written to {one_line(args.out)}")
    return 0


def _print_left_out(reason: str) -> None:
    print(f"left out: {one_line(reason)}", file=sys.stderr)


def rate(text: str) -> float | str:
    """The value of `--rate`."""
    from seqzoo.data.nes.runs import check_rate

    try:
        return text if text == "adaptive" else check_rate(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a rate nor `adaptive`: {error}") from error


def folder(text: str) -> str:
    """The value of `--out`."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; this folder is `.`")
    return text
