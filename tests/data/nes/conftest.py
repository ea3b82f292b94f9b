"""The golden conversions: real songs, and synthetic ones that exercise every unit of the chip."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from seqzoo.data.nes import VGM, read_song
from seqzoo.data.nes.runs import Runs


REAL = (
    "202_LawnMower_00_01Title",
    "202_LawnMower_01_02Game",
    "202_LawnMower_02_03LevelClear",
    "202_LawnMower_03_04OutofFuel",
    "202_LawnMower_04_05WellDone",
)
SYNTHETIC = (
    "fuzz_envlen5_102",
    "fuzz_general5_105",
    "fuzz_general_ntsc_100",
    "fuzz_noise_pal_104",
    "fuzz_sweep_101",
    "fuzz_triangle_103",
)


@dataclass(frozen=True)
class Golden:
    """A song and everything that the reference made of it."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def vgm(self) -> VGM:
        return read_song(self.folder / f"{self.name}.vgm")

    @property
    def midi(self) -> bytes:
        return self.file(f"{self.name}.mid")

    @property
    def scores(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "scores.npz") as file:
            return dict(file)

    @property
    def info(self) -> dict:
        """Sizes and hashes."""
        if self.name in REAL:
            return json.loads((self.folder.parent / "summary.json").read_text())[self.name]
        return json.loads(self.file("info.json"))

    def runs(self, name: str) -> Runs:
        scores = self.scores
        return Runs(scores[f"{name}_idx"].astype(np.int64), scores[f"{name}_val"], int(scores["nsamps"]))

    def file(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def text(self, name: str) -> str:
        return gzip.decompress(self.file(f"{name}.txt.gz")).decode()


@pytest.fixture(scope="session", params=REAL + SYNTHETIC)
def golden(request, shared_data) -> Golden:
    return Golden(shared_data / "nesmdb" / ("fuzz" if request.param in SYNTHETIC else "") / request.param)


@pytest.fixture(scope="session", params=REAL)
def real(request, shared_data) -> Golden:
    return Golden(shared_data / "nesmdb" / request.param)


@pytest.fixture(scope="session")
def short_song(shared_data) -> Golden:
    """Two and a half seconds."""
    return Golden(shared_data / "nesmdb" / "202_LawnMower_02_03LevelClear")
