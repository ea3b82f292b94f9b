"""What is known of a song beside its notes: by its name, from its tag, and from a file about composers."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.data.nes.gd3 import GD3


_PUBLISHED_NAME = re.compile(r"(?P<id>\d{3})_(?P<game>.+)_\d{2,3}_(?P<track>\d{2})?(?P<title>.*)")
_NUMBERED_NAME = re.compile(r"(?P<track>\d{2,3})[ _.-]+(?P<title>.+)")


def facts_of_name(name: str) -> dict[str, Any]:
    """`game`, `game_id`, `title` and `track` from the name of a song.

    Of a name as NES-MDB has them, `<game id>_<game>_<index>_<track><title>`; of another, `<track> <title>` with the
    folder as the game, as far as it has them. What it does not tell is None.
    """
    folder, _, last = name.rpartition("/")
    published = _PUBLISHED_NAME.fullmatch(last)
    numbered = _NUMBERED_NAME.fullmatch(last)
    facts = {"game": folder or None, "game_id": None, "title": last, "track": None}
    if published:
        facts |= {"game": published["game"], "game_id": published["id"]}
    if found := published or numbered:
        facts |= {"title": found["title"], "track": found["track"] and int(found["track"])}
    return facts


def facts_of_tag(tag: GD3 | None) -> dict[str, Any]:
    """`game`, `title` and `composers` from the tag of a VGM file, those of which it has something."""
    if tag is None:
        return {}
    authors = re.split(r"[,;]", tag.author or tag.author_japanese)
    facts = {
        "game": tag.game or tag.game_japanese,
        "title": tag.track or tag.track_japanese,
        "composers": [author.strip() for author in authors if author.strip()],
    }
    return {key: value for key, value in facts.items() if value}


def composers_of(name: str, facts: Mapping[str, Any], composers: Mapping[str, list[str]]) -> list[str]:
    """Of the song, else of the game with its id, else of the game; nobody, if none is among the keys."""
    keys = (name, f"{facts['game_id']}_{facts['game']}", facts["game"])
    return next((composers[key] for key in keys if key in composers), [])


def read_composers(source: str | Path | Mapping[str, Sequence[str]], songs: Iterable[str]) -> dict[str, list[str]]:
    """Games or songs to composers, checked to be of use for these songs.

    Raises:
        `ValueError`: the file is of another form, a value is no list of names, or no song has a composer by it.
    """
    is_mapping = isinstance(source, Mapping)
    label = "composers" if is_mapping else str(source)
    composers = source if is_mapping else _read_file(Path(source))
    for key, names in composers.items():
        if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"{label}: the composers of {key} are {names!r:.80}, not a list of names")
    composers = {key: list(names) for key, names in composers.items()}
    songs = list(songs)
    if not any(composers_of(name, facts_of_name(name), composers) for name in songs):
        raise ValueError(
            f"{label} has a composer of none of these songs; the first is {songs[0]} of the game "
            f"{facts_of_name(songs[0])['game']}"
        )
    return composers


def _read_file(path: Path) -> Mapping[str, list[str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Excel puts a mark before UTF-8
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}): save it as UTF-8") from error
    if path.suffix == ".json":
        try:
            content = json.loads(text, object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON of composers ({error})") from error
        if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
            raise ValueError(f"{path} is no JSON object of games or songs to lists of composers")
        return content
    rows = csv.DictReader(io.StringIO(text, newline=""), restval="")
    try:
        if not {"name", "composers"} <= set(rows.fieldnames or ()):
            raise ValueError("its first line has other names")
        composers = []
        for row in rows:
            if None in row:
                raise ValueError(f"line {rows.line_num} has more columns than the first")
            names = (name.strip() for name in row["composers"].split(";"))
            composers.append((row["name"], [name for name in names if name]))
        return _without_repetition(composers)
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is no CSV file with the columns name and composers (separated by ;): {error}"
        ) from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is there twice")
        found[key] = value
    return found
