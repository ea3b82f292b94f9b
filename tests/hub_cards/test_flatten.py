import importlib
import itertools
import sys

import pytest

from seqzoo.hub_cards.flatten import flatten


number = itertools.count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes an importable package out of {path: source}, in which ZOO stands for its name; returns that name."""

    def make(files):
        name = f"zoo{next(number)}"
        for path, source in files.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.replace("ZOO", name).encode())
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return name

    yield make
    for name in [name for name in sys.modules if name.startswith("zoo")]:
        del sys.modules[name]


@pytest.fixture
def flat(tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    return folder


MODELING = '''"""Ünïcode: `from ZOO.kernels.op import op` inside a docstring stays as it is."""\r
from os import path   # so does this
from ZOO.kernels.op   import op\r
from ZOO.modeling.thing.configuration_thing import (  # a comment
    A,
    B as C,
)

try:
    from ZOO.kernels.fast import fast
except ImportError:
    fast = None


def convert():
    from ZOO.modeling.thing.convert_thing import convert as f
    return f()
'''

CONVERT = """from ZOO.modeling.thing.modeling_thing import op


def convert():
    return op
"""


def test_imports_are_flattened_and_the_rest_is_untouched(package, flat):
    name = package(
        {
            "modeling/thing/__init__.py": "",
            "modeling/thing/modeling_thing.py": MODELING,
            "modeling/thing/configuration_thing.py": "A = B = 1\n",
            "modeling/thing/convert_thing.py": CONVERT,
            "kernels/op.py": "from ZOO.kernels.common import helper as op\n",
            "kernels/fast.py": "from ZOO.kernels.common import *\nfrom ZOO.kernels.op import op\nfast = op\n",
            "kernels/common.py": "helper = 7",
            "kernels/unused.py": "",
        }
    )
    files = flatten([f"{name}.modeling.thing.modeling_thing"], flat)
    assert sorted(file.name for file in files) == sorted(file.name for file in flat.iterdir())
    assert {file.stem for file in files} == {
        "modeling_thing",
        "configuration_thing",
        "convert_thing",
        "op",
        "fast",
        "common",
    }
    expected = (
        MODELING.replace("from ZOO.kernels.op   import", "from .op   import")
        .replace("from ZOO.kernels.fast import", "from .fast import")
        .replace("from ZOO.modeling.thing.configuration_thing import", "from .configuration_thing import")
        .replace("from ZOO.modeling.thing.convert_thing import", "from .convert_thing import")
        .replace("ZOO", name)
    )
    assert (flat / "modeling_thing.py").read_bytes() == expected.encode()
    assert (flat / "common.py").read_bytes() == b"helper = 7"

    (flat / "__init__.py").touch()
    modeling = importlib.import_module("flat.modeling_thing")
    assert (modeling.op, modeling.fast, modeling.A, modeling.convert()) == (7, 7, 1, 7)
    for module in [module for module in sys.modules if module.partition(".")[0] == "flat"]:
        del sys.modules[module]


def test_a_statement_after_others_on_its_line_is_refused(package, flat):
    name = package({"a.py": "'é'; from ZOO.b import x\n", "b.py": "x = 1"})
    with pytest.raises(ValueError, match=r"a\.py: transformers would not follow the import of b"):
        flatten([f"{name}.a"], flat)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("import ZOO.kernels.op", r"line 2: `import zoo\d+.kernels.op` cannot be flattened: write `from "),
        ("import os, ZOO as z", r"`import zoo\d+` cannot be flattened"),
        ("from ZOO import version", "not a module of one file"),
        ("from ZOO.kernels import op", "not a module of one file"),
        ("from ZOO.kernels.missing import op", r"zoo\d+.kernels.missing is not a module"),
        ("from ZOO.missing.op import op", r"zoo\d+.missing.op is not a module"),
        ("from .op import op", "relative import"),
        ("from . import op", "relative import"),
        ("from \\\n    ZOO.kernels.op import op", "on one line"),
        ("def f():\n    import ZOO.kernels.op", "line 3"),
        ("if True: from ZOO.kernels.op import op", "would not follow the import of op"),
        ('"""\nfrom .ghost import x\n"""', "take `from .ghost import` in its text for an import"),
    ],
)
def test_other_imports_are_refused_by_name(package, flat, statement, message):
    name = package({"a.py": f"# first line\n{statement}\n", "kernels/op.py": "op = 1"})
    with pytest.raises(ValueError, match=message) as error:
        flatten([f"{name}.a"], flat)
    assert "a.py" in str(error.value)


def test_equal_stems_are_refused(package, flat):
    name = package(
        {
            "a.py": "from ZOO.x.op import op\nfrom ZOO.y.op import op as other\n",
            "x/op.py": "op = 1",
            "y/op.py": "op = 2",
        }
    )
    with pytest.raises(ValueError, match=rf"{name}.x.op and {name}.y.op would both become op.py"):
        flatten([f"{name}.a"], flat)


def test_a_name_that_only_begins_like_the_package_is_left_alone(package, flat):
    name = package({"a.py": "try:\n    from ZOO_extra.b import x\nexcept ImportError:\n    import ZOO_extra\n"})
    (file,) = flatten([f"{name}.a"], flat)
    assert f"from {name}_extra.b import x" in file.read_text()
