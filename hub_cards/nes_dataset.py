"""A data set of NES music as a folder that anyone loads with plain `datasets`: Parquet files and a card."""

import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData

from seqzoo.data.nes.archive import PUBLISHED, check_published


# What a format is, how its song is laid out, and what it leaves out.
WHAT = {
    "exprsco": "expressive scores",
    "seprsco": "separated scores",
    "blndsco": "blended scores",
    "midi": "MIDI files at 44.1 kHz",
    "vgm": "VGM files",
    "nlm": "logs of synthesizer functions (NLM)",
    "ndr": "logs of register writes (NDR)",
    "ndf": "logs of register functions (NDF)",
}
SONGS = {
    "exprsco": "step, voice (P1, P2, TR, NO), (note, velocity, timbre)",
    "seprsco": "step, voice (P1, P2, TR, NO): the note, 0 for none",
    "blndsco": "step, place: the notes of P1, P2 and TR from the lowest, then zeros",
    "midi": "the bytes of the file",
    "vgm": "the bytes of the file",
    "nlm": "one command a line",
    "ndr": "one command a line",
    "ndf": "one command a line",
}
_SEMITONES = "Pitches are rounded to semitones, and the channel for samples is left out"
_STEPS = f"{_SEMITONES}; what is shorter than a step is lost"
LOSS = {
    "exprsco": f"{_STEPS}.",
    "seprsco": f"{_STEPS}, and so are velocities and timbres.",
    "blndsco": f"{_STEPS}, and so are velocities, timbres, noise, and which voice plays what.",
    "midi": f"{_SEMITONES}.",
    "vgm": "The player has to emulate the chip; songs are played once, without their loop, by all numbers here.",
    "nlm": "The channel for samples is left out.",
    "ndr": "The channel for samples is left out, unless the logs were kept as they are.",
    "ndf": "The channel for samples is left out, unless the logs were kept as they are.",
}
FACTS = {
    "name": "of the song's file, without suffix",
    "game": "in which it is played",
    "game_id": "the game's three digits in NES-MDB",
    "composers": "as far as they were given",
    "title": "of the song",
    "track": "number in the game's soundtrack",
    "seconds": "length",
    "rate": "steps a second",
}


# The Hub's names of sizes.
SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def export_dataset(songs: DatasetDict, out: str | Path, format: str, *, source: str | Path) -> Path:
    """Writes the folder `out`, which is also what `hf upload --repo-type dataset` takes.

    Args:
        songs (`DatasetDict`):
            What [`load_nesmdb`] returned.
        out (`str` or `Path`):
            A folder that does not exist yet.
        format (`str`):
            Of the songs.
        source (`str` or `Path`):
            What [`load_nesmdb`] read, for the card. Of what is on this machine only the last part of the name is told.

    Raises:
        `FileExistsError`: there is something at `out`.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already: name another folder, or remove it")
    scratch = out.with_name(f".{out.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / "data").mkdir(parents=True)
        for split, part in songs.items():
            part.to_parquet(scratch / "data" / f"{split}-00000-of-00001.parquet")
        dataset_card(songs, out.name, format, source=source).save(scratch / "README.md")
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def dataset_card(songs: DatasetDict, name: str, format: str, *, source: str | Path) -> DatasetCard:
    """The card of a data set, whose numbers are counted from it."""
    facts = {split: _facts(part) for split, part in songs.items()}
    total = {key: sum(row[key] for row in facts.values()) for key in ("songs", "hours")}
    is_nesmdb = all(row["is_nesmdb"] for row in facts.values())
    features = next(iter(songs.values())).features
    column = next(name for name in features if name not in FACTS)
    data = DatasetCardData(
        license="other",
        pretty_name=f"{'NES-MDB' if is_nesmdb else 'NES music'}, {WHAT[format]}",
        tags=["music", "nes", "nes-mdb", "chiptune", "symbolic-music"],
        task_categories=["other"],
        size_categories=[next(name for most, name in SIZES if total["songs"] < most)],
    )
    return DatasetCard.from_template(
        data,
        template_str=(files("seqzoo.hub_cards") / "nes_dataset_card.md").read_text(encoding="utf-8"),
        name=name,
        format=format,
        what=WHAT[format],
        loss=LOSS[format],
        is_score=column == "score",
        is_nesmdb=is_nesmdb,
        origin=_origin(Path(source)),
        total=total,
        splits=facts,
        overlap=" ".join(["Counted from the rows of this data set.", *_overlaps(facts)]),
        columns={key: (_type(features[key]), meaning) for key, meaning in (FACTS | {column: SONGS[format]}).items()},
    )


def _origin(source: Path) -> str:
    if source.is_file():
        published = PUBLISHED.get(check_published(source, verify=False))
        if published:
            return f"Made from the published archive `{published}`, whose SHA-256 was verified."
        return f"Made from the archive `{source.name}`, which is not a published one of NES-MDB."
    if source.is_dir():
        return f"Made from files in a folder named `{source.resolve().name}`."
    return f"Made from [{source}](https://huggingface.co/datasets/{source})."


def _facts(songs: Dataset) -> dict[str, Any]:
    columns = songs.with_format(None).select_columns(["game", "game_id", "composers", "seconds"])[:]
    return {
        "songs": len(songs),
        "hours": sum(columns["seconds"]) / 3600,
        "games": {game for game in zip(columns["game_id"], columns["game"]) if game[1]},
        "composers": {name for names in columns["composers"] for name in names},
        "is_nesmdb": None not in columns["game_id"],
    }


def _overlaps(facts: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Whether games and composers are in several splits."""
    for kind in ("game", "composer"):
        count = Counter(name for row in facts.values() for name in row[f"{kind}s"])
        shared = sum(times > 1 for times in count.values())
        if shared:
            yield f"{shared} of the {kind}s are in several splits."
        elif count and len(facts) > 1:
            yield f"No {kind} is in two splits."


def _type(feature: Any) -> str:
    if hasattr(feature, "shape"):
        return f"{feature.dtype} `[{', '.join('step' if size is None else str(size) for size in feature.shape)}]`"
    return f"list of {_type(feature.feature)}" if hasattr(feature, "feature") else feature.dtype
