"""Text sources: where documents come from, and which of them are held out.

[`load_corpus`] reads one of three kinds of source:

- `embedded`: English that every Python brings along, see [`embedded_documents`];
- local files: plain text (one document a file), `.jsonl` and `.parquet` (one a row), each also inside `.gz`, `.xz`
  or `.zip`. A plain text may be cut in bytes, like a split of the datasets library: `enwik8[:90%]`,
  `enwik8[4500000:4750000]`;
- a dataset on the Hub, or a folder that the datasets library can read.

Nothing is downloaded but a Hub dataset that was named.
"""

import ast
import gzip
import hashlib
import inspect
import io
import json
import lzma
import math
import re
import sysconfig
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset, Features, Value, load_dataset


if TYPE_CHECKING:
    from seqzoo.data.text_stream import DocumentStream


EMBEDDED = "embedded"
EMBEDDED_LICENSE = "psf-2.0"
# Other people's packages; tests and the editor, which not every installation has.
_NOT_DOCUMENTATION = {"site-packages", "dist-packages", "test", "tests", "idlelib"}
_SLICE = re.compile(r"^(?P<path>.*)\[(?P<start>\d*%?):(?P<stop>\d*%?)\]$")
_FILE_SUFFIXES = {".txt", ".xml", ".md", ".jsonl", ".parquet", ".gz", ".xz", ".zip"}


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents held out.

    Args:
        train, validation (`Dataset` or [`seqzoo.data.text_stream.DocumentStream`]):
            One column, `text`: a document a row.
        source (`str`):
            What was read, as it was named.
        sha256 (`str`, *optional*):
            Of the whole text: every document in UTF-8 followed by a zero byte, the training part first. None of a
            stream, which is never there as a whole.
        license (`str`, *optional*):
            Where the source states it.
        dataset (`str`, *optional*):
            Its id on the Hub, where it comes from there.
    """

    train: "Dataset | DocumentStream"
    validation: "Dataset | DocumentStream"
    source: str
    sha256: str | None
    license: str | None = None
    dataset: str | None = None


def load_corpus(
    source: str | list[str],
    *,
    name: str | None = None,
    split: str = "train",
    validation: str | list[str] | None = None,
    validation_fraction: float = 0.05,
    text_column: str = "text",
    running_text: bool = False,
) -> Corpus:
    """Read a source and hold a part of it out.

    Args:
        source (`str` or `list[str]`):
            `embedded`, one or several files, or a Hub dataset.
        name, split (`str`):
            Hub: configuration and training split.
        validation (`str` or `list[str]`, *optional*):
            Files beside files, a split beside a Hub dataset. Without it, `validation_fraction` of the documents is
            held out, those whose SHA-256 comes first: a choice that depends on nothing but the text. A single
            document is cut instead, its end is held out.
        text_column (`str`):
            The field of jsonl, parquet and Hub rows.
        running_text (`bool`):
            Rows are the lines of one text: it is its end that is held out.

    Raises:
        `FileNotFoundError`: a file that does not exist, or a name that no Hub dataset has.
        `ValueError`: a file that does not hold what its name says, or a source without text.
    """
    if source == EMBEDDED:
        if validation is not None:
            raise ValueError(f"the source {EMBEDDED!r} has no validation files; use validation_fraction")
        train, held_out = _hold_out(list(embedded_documents()), validation_fraction)
        return _corpus(train, held_out, EMBEDDED, license=EMBEDDED_LICENSE)
    if isinstance(source, list) or is_file(source):
        documents = _read_files(source, text_column)
        if validation is None:
            documents, held_out = _hold_out(documents, validation_fraction, running_text)
        else:
            held_out = _read_files(validation, text_column)
        return _corpus(documents, held_out, ", ".join([source] if isinstance(source, str) else source))
    train = _hub_split(source, name, split, text_column)
    label = f"{source}/{name}" if name else source
    dataset = None if Path(source).exists() else source
    if validation is None:
        documents, held_out = _hold_out(train["text"][:], validation_fraction, running_text)
        return _corpus(documents, held_out, label, dataset=dataset)
    if not isinstance(validation, str):
        raise ValueError(f"beside the Hub dataset {source}, validation names one of its splits, not {validation!r}")
    return _corpus(train, _hub_split(source, name, validation, text_column), label, dataset=dataset)


@lru_cache(maxsize=1)
def embedded_documents() -> tuple[str, ...]:
    """English text that every Python installation has: nearly two million characters of technical prose.

    The documentation topics (what `help("assert")` prints) and the docstrings of the standard library, parsed but
    never imported, in a fixed order. Of these the paragraphs that are prose: five words or more, 85 % letters and
    spaces, no interpreter session. A paragraph that occurred before is dropped, whatever its line breaks: whoever
    splits these documents later finds no held-out paragraph in the training part.
    """
    seen: set[str] = set()
    documents = []
    for text in _embedded_texts():
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", text):
            key = " ".join(paragraph.split())
            if key not in seen and _is_prose(key):
                seen.add(key)
                paragraphs.append(paragraph.strip("\n").rstrip())
        if paragraphs:
            documents.append("\n\n".join(paragraphs) + "\n")
    return tuple(documents)


def _is_prose(paragraph: str) -> bool:
    plain = sum(character.isalpha() or character == " " for character in paragraph)
    return paragraph.count(" ") >= 4 and plain >= 0.85 * len(paragraph) and ">>>" not in paragraph


def _embedded_texts() -> Iterator[str]:
    for topic in sorted(topics):
        yield inspect.cleandoc(topics[topic])
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if _NOT_DOCUMENTATION & set(path.relative_to(root).parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):  # templates that are no Python on their own
                continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield docstring


def _hold_out(documents: list[str], fraction: float, running_text: bool = False) -> tuple[list[str], list[str]]:
    if running_text and len(documents) > 1:
        cut = len(documents) - math.ceil(len(documents) * fraction)
        return documents[:cut], documents[cut:]
    if len(documents) == 1:
        text = documents[0]
        cut = len(text) - max(1, round(len(text) * fraction))
        return [text[:cut]], [text[cut:]]
    ranking = sorted(range(len(documents)), key=lambda i: hashlib.sha256(documents[i].encode()).digest())
    held_out = set(ranking[: math.ceil(len(documents) * fraction)])
    train = [text for i, text in enumerate(documents) if i not in held_out]
    return train, [text for i, text in enumerate(documents) if i in held_out]


def _corpus(train: list[str] | Dataset, validation: list[str] | Dataset, source: str, **facts: str | None) -> Corpus:
    digest = hashlib.sha256()
    parts = []
    for part, documents in (("training", train), ("validation", validation)):
        if not isinstance(documents, Dataset):
            # The large type has no limit of 2 GiB for the column.
            documents = Dataset.from_dict({"text": documents}, features=Features({"text": Value("large_string")}))
        if not any(documents["text"]):
            raise ValueError(f"the {part} part of {source} holds no text")
        for text in documents["text"]:
            digest.update(text.encode() + b"\0")
        parts.append(documents)
    return Corpus(*parts, source=source, sha256=digest.hexdigest(), **facts)


# Files


def is_file(source: str) -> bool:
    """Whether the name means a file, be it there or not; the rest are names on the Hub."""
    cut = _SLICE.match(source)
    path = Path(cut["path"] if cut else source)
    return bool(cut) or path.is_file() or path.suffix in _FILE_SUFFIXES


def _read_files(source: str | list[str], text_column: str) -> list[str]:
    documents = []
    for item in [source] if isinstance(source, str) else source:
        cut = _SLICE.match(item)
        path = Path(cut["path"] if cut else item)
        if not path.is_file():
            raise FileNotFoundError(f"the data file {path} does not exist (working directory {Path.cwd()})")
        try:
            for name, content in _open(path):
                documents.extend(_parse(name, content, cut, text_column))
        except (EOFError, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is damaged or not what its name says: {error}") from error
    return [text for text in documents if text]


def _open(path: Path) -> Iterator[tuple[str, bytes]]:
    """The name and content of the file, or of every file inside the archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith("/"):
                    yield name, archive.read(name)
    elif path.suffix in (".gz", ".xz"):
        with (gzip if path.suffix == ".gz" else lzma).open(path) as file:
            yield path.stem, file.read()
    else:
        yield path.name, path.read_bytes()


def _parse(name: str, content: bytes, cut: re.Match | None, text_column: str) -> Iterable[str]:
    suffix = Path(name).suffix
    if cut and suffix in (".jsonl", ".parquet"):
        raise ValueError(f"only plain text can be cut in bytes, not {name}")
    if suffix == ".jsonl":
        return _parse_jsonl(name, content, text_column)
    if suffix == ".parquet":
        return _parse_parquet(name, content, text_column)
    return [_decode(name, content, cut)]


def _parse_jsonl(name: str, content: bytes, text_column: str) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[text_column]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of {name} is no JSON object with the key {text_column!r}") from error
        if text is not None and not isinstance(text, str):
            raise ValueError(f"line {number} of {name} has no text under {text_column!r} but {text!r:.80}")
        yield text


def _parse_parquet(name: str, content: bytes, text_column: str) -> list[str]:
    try:
        column = pyarrow.parquet.read_table(io.BytesIO(content), columns=[text_column])[text_column]
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{name} is no parquet file with the column {text_column!r}") from error
    return column.to_pylist()


def _decode(name: str, content: bytes, cut: re.Match | None) -> str:
    start, stop = 0, len(content)
    if cut:
        start, stop = (_boundary(content, edge) for edge in (cut["start"] or "0", cut["stop"] or "100%"))
    try:
        return content[start:stop].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text (byte {start + error.start}); convert it first") from error


def _boundary(content: bytes, edge: str) -> int:
    """A byte offset, given as such or in per cent, moved on to where a character begins.

    Both neighbours of a cut move alike, so that consecutive cuts share nothing and lose nothing.
    """
    offset = len(content) * int(edge[:-1]) // 100 if edge.endswith("%") else int(edge)
    while offset < len(content) and content[offset] & 0xC0 == 0x80:
        offset += 1
    return offset


# The Hub


def _hub_split(source: str, name: str | None, split: str, text_column: str) -> Dataset:
    try:
        dataset = load_dataset(source, name, split=split)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{source!r} (configuration {name}, split {split}) is neither a file here (working directory "
            f"{Path.cwd()}) nor a dataset that the Hub gives: {error}"
        ) from error
    if text_column not in dataset.column_names:
        raise ValueError(f"{source} has no column {text_column!r}, but {dataset.column_names}; set data.text_column")
    return dataset.select_columns([text_column]).rename_columns({text_column: "text"})
