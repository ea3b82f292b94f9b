"""Flattening: modules of the project become files that import one another from one folder.

transformers fetches the code of a repository by two regular expressions over its text: it follows `from .x import y`,
one level deep, and overlooks or breaks on every other way to name a neighbour. So each project import of the form
`from seqzoo.<room>.<module> import names` becomes `from .<module> import names`, and the module joins the folder; any
other form is refused. The rest of a file stays as it is, byte for byte.
"""

import ast
import importlib.util
import re
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_imports


def flatten(modules: Iterable[str], folder: str | Path) -> list[Path]:
    """Writes `modules`, and every module of the same package that they import, as flat files.

    Args:
        modules (`Iterable[str]`):
            Dotted names of importable modules, all of one top-level package, such as `seqzoo.modeling.x.modeling_x`.
            Imports are followed wherever they stand, in functions too.
        folder (`str` or `Path`):
            An existing folder. `seqzoo.modeling.x.modeling_x` becomes `modeling_x.py` in it.

    Returns:
        `list[Path]`: the files written, in the order in which they were reached.

    Raises:
        `ValueError`: an import that cannot be flattened, or two modules whose files would have the same name.
    """
    folder = Path(folder)
    queue = list(modules)
    written: dict[str, str] = {}  # file stem -> module
    for module in queue:
        stem = module.rpartition(".")[2]
        if written.get(stem) == module:
            continue
        if stem in written:
            raise ValueError(
                f"{written[stem]} and {module} would both become {stem}.py in the flat folder: rename one of them."
            )
        written[stem] = module
        path = Path(importlib.util.find_spec(module).origin)
        source, imported = _rewrite(path, module.partition(".")[0])
        (folder / f"{stem}.py").write_bytes(source)
        queue += imported

    files = [folder / f"{stem}.py" for stem in written]
    for file in files:
        _check_followed(file)
    return files


def _rewrite(path: Path, package: str) -> tuple[bytes, list[str]]:
    """The source of `path` with flat imports, and the modules of `package` that it imports."""
    source = path.read_bytes()
    line_starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]

    edits: list[tuple[int, int, str]] = []  # start and end byte of a statement's `from a.b.c`, and the module
    for node in ast.walk(ast.parse(source, str(path))):
        here = f"{path}, line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == package:
                    raise ValueError(
                        f"{here}: `import {alias.name}` cannot be flattened: write `from {alias.name} import name`."
                    )
        elif isinstance(node, ast.ImportFrom):
            if node.level > 0:
                raise ValueError(
                    f"{here}: a relative import cannot be flattened: name the module from `{package}.` on."
                )
            if node.module.partition(".")[0] != package:
                continue
            if not _is_module(node.module):
                raise ValueError(
                    f"{here}: {node.module} is not a module of one file, so the import cannot be flattened: write "
                    f"`from {package}.<room>.<module> import name`."
                )
            start = line_starts[node.lineno - 1] + node.col_offset
            statement = re.compile(rb"from[ \t]+" + re.escape(node.module.encode()) + rb"(?=\s)").match(source, start)
            if statement is None:
                raise ValueError(
                    f"{here}: write `from {node.module} import` on one line, so that it can be flattened."
                )
            edits.append((start, statement.end(), node.module))

    for start, end, module in sorted(edits, reverse=True):
        source = source[:start] + f"from .{module.rpartition('.')[2]}".encode() + source[end:]
    return source, [module for _, _, module in sorted(edits)]


def _is_module(name: str) -> bool:
    """Whether `name` is a module of one file rather than a package or nothing at all."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.submodule_search_locations is None


def _check_followed(file: Path) -> None:
    """Refuses a flat file in which transformers' regular expressions see other imports than Python does."""
    found = set(get_relative_imports(file))
    imported = {
        node.module
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.ImportFrom) and node.level
    }
    for name in sorted(imported - found):
        raise ValueError(
            f"{file.name}: transformers would not follow the import of {name}: give it a line of its own."
        )
    for name in sorted(found - imported):
        if not file.with_name(f"{name}.py").exists():
            raise ValueError(
                f"{file.name}: transformers would take `from .{name} import` in its text for an import: reword it."
            )
