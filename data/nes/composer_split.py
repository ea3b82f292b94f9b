"""Splits for a new collection: nobody's music, and no game's, is in two of them."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets


def composer_disjoint_split(
    songs: Dataset | DatasetDict, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> DatasetDict:
    """Splits songs into train, validation and test so that no composer and no game is in two splits.

    Songs that share a composer or a game, directly or over others, stay together. These groups go, the largest first
    and those of one size by chance, to the split that lacks most songs: none becomes larger than its fraction by the
    largest group or more. The result depends on the songs and the seed, not on their order.

    Args:
        songs (`Dataset` or `DatasetDict`):
            With the columns of [`load_nesmdb`]; of a dictionary all splits together.
        fractions (`Sequence[float]`):
            Of the songs in `train`, `validation` and `test`; they add up to 1, and a 0 leaves a split out.
        seed (`int`):
            Of the order of groups of one size.

    Raises:
        `ValueError`: the composers of a song are unknown, or there are fewer groups than splits.
    """
    if len(fractions) != 3 or not all(0 <= part <= 1 for part in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"the fractions {tuple(fractions)} are not three parts that add up to 1")
    if isinstance(songs, dict):
        songs = concatenate_datasets(list(songs.values()))
    if not isinstance(songs, Dataset):
        raise TypeError("songs that are streamed cannot be split: load them without streaming")
    groups = _groups(songs)
    sizes = {name: fraction for name, fraction in zip(("train", "validation", "test"), fractions) if fraction > 0}
    if len(groups) < len(sizes):
        raise ValueError(
            f"the {len(songs)} songs make {len(groups)} group(s) that share no composer or game, too few for "
            f"{len(sizes)} splits; use fewer (a fraction of 0) or more songs"
        )
    chance = np.random.default_rng(seed).permutation(len(groups))
    order = sorted(range(len(groups)), key=lambda group: (-len(groups[group]), chance[group]))
    lacking = {name: fraction * len(songs) for name, fraction in sizes.items()}
    splits: dict[str, list[int]] = {name: [] for name in sizes}
    for left, group in zip(range(len(order), 0, -1), order):
        empty = [name for name, rows in splits.items() if not rows]
        name = max(empty if len(empty) == left else splits, key=lacking.__getitem__)
        splits[name] += groups[group]
        lacking[name] -= len(groups[group])
    return DatasetDict({name: songs.select(sorted(rows)) for name, rows in splits.items()})


def _groups(songs: Dataset) -> list[list[int]]:
    """Rows that are connected by composers and games, sorted by the first name in each group."""
    facts = songs.with_format(None).select_columns(["name", "game", "game_id", "composers"])[:]
    unknown = [
        name
        for name, composers in zip(facts["name"], facts["composers"])
        if not composers or not {"", "unknown"}.isdisjoint(map(_same, composers))
    ]
    if unknown:
        raise ValueError(
            f"the composers of {len(unknown)} of {len(songs)} songs are unknown, such as {unknown[0]}: give them to "
            "load_nesmdb (composers=...), or leave the songs out (.filter)"
        )
    parent: dict[tuple, tuple] = {}

    def root(node: tuple) -> tuple:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for row, (game, game_id, composers) in enumerate(zip(facts["game"], facts["game_id"], facts["composers"])):
        nodes = [("composer", _same(composer)) for composer in composers]
        nodes += [("game", game_id, game)] if game else []
        for node in nodes:
            parent[root(node)] = root(("song", row))
    groups: dict[tuple, list[int]] = {}
    for row in range(len(songs)):
        groups.setdefault(root(("song", row)), []).append(row)
    return sorted(groups.values(), key=lambda rows: min(facts["name"][row] for row in rows))


def _same(composer: str | None) -> str:
    return " ".join((composer or "").split()).casefold()
