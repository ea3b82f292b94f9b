"""The test suites that transformers has for its own models, of the version that is installed.

A wheel has no tests. The source distribution of the same version has the files right under `tests/`, and none of the
folders there. `python tests/conformance/library.py` downloads it with pip into the virtual environment, once a
version; `load()` imports from it. Nothing of it is part of this project.
"""

import importlib
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

from transformers import __version__


PACKAGE = "transformers_tests"
NAME = f"transformers-{__version__}"
TESTS = Path(sys.prefix) / "conformance" / NAME / "tests"


class ExportTesterMixin:
    def test_export(self):
        self.skipTest(f"not run: the source distribution of {NAME} lacks tests/exporters/test_export.py")


class GenerationTesterMixin:
    def test_generation(self):
        self.skipTest(f"not run: the source distribution of {NAME} lacks tests/generation/test_utils.py")


# What the suites import from the folders that are missing. A stub gives way where a version has the file.
STUBS = {
    "exporters.test_export": {"ExportTesterMixin": ExportTesterMixin},
    "generation.test_utils": {"GenerationTesterMixin": GenerationTesterMixin},
    "utils.test_configuration_utils": {
        # Values of fields that every config has, none of them the default.
        "config_common_kwargs": {
            "architectures": ["SomeModel"],
            "chunk_size_feed_forward": 5,
            "dtype": "float16",
            "output_attentions": True,
            "output_hidden_states": True,
            "problem_type": "regression",
            "return_dict": False,
        }
    },
}


def fetch() -> None:
    """Downloads the source distribution and unpacks its tests into `TESTS`, unless they are there."""
    if TESTS.is_dir():
        return
    print(f"Fetching the tests of {NAME} ...", flush=True)
    folder = TESTS.parent
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        options = ["--quiet", "--no-deps", "--no-binary", "transformers", "--dest", scratch]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"transformers=={__version__}"], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as source:
            members = [member for member in source if member.name.startswith(f"{NAME}/tests/")]
            source.extractall(scratch, members, filter="data")
        unpacked = Path(scratch) / NAME
        (unpacked / "tests" / "__init__.py").touch()  # the suites import from one another, and read it
        unpacked.rename(folder)  # last: a folder of that name is whole


def load(module: str) -> ModuleType:
    """`tests/<module>.py` of the source distribution."""
    if PACKAGE not in sys.modules:
        if not TESTS.is_dir():
            raise FileNotFoundError(f"{TESTS} is not there; `make conformance` downloads it")
        spec = importlib.util.spec_from_file_location(PACKAGE, TESTS / "__init__.py")
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
        for name, content in STUBS.items():
            if not TESTS.joinpath(*name.split(".")).with_suffix(".py").is_file():
                stub = sys.modules[f"{PACKAGE}.{name}"] = ModuleType(f"{PACKAGE}.{name}")
                vars(stub).update(content)
    return importlib.import_module(f"{PACKAGE}.{module}")


if __name__ == "__main__":
    fetch()
