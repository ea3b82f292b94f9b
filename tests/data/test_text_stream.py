"""Streamed text: the batches of the text in memory, exactly resumable, in memory that does not grow with the text."""

import gzip
import json
import lzma
import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqzoo.data import text_stream
from seqzoo.data.text import load_corpus
from seqzoo.data.text_packing import PackedBatches, tokenize
from seqzoo.data.text_stream import PackedStream, first_tokens, stream_corpus
from seqzoo.data.text_tokenizer import train_tokenizer


TEXTS = [f"document {i}\nabc{' xyz' * (i % 13)}\n" for i in range(60)]
TOKENIZER = train_tokenizer(TEXTS, 300)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """A few documents are read at a time, so that blocks begin in the middle of them."""
    monkeypatch.setattr(text_stream, "_GROUP", 200)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("text")
    for name, part in (("a", [*TEXTS[:25], ""]), ("b", TEXTS[25:])):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in part))
    return [str(folder / "a.jsonl"), str(folder / "b.jsonl")]


def new_stream(files: list[str], **options) -> PackedStream:
    documents = stream_corpus(files, validation=files).train
    return PackedStream(documents, TOKENIZER, **{"sequence_length": 16, "batch_size": 5} | options)


def assert_equal(batches, others, count: int) -> None:
    for one, other in zip(islice(batches, count), islice(others, count), strict=True):
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one)


@pytest.mark.parametrize("shuffle_buffer", [1, 7, 1000])
@pytest.mark.parametrize("separate", [False, True])
def test_unshuffled_batches_are_those_of_the_text_in_memory(files, shuffle_buffer, separate):
    row = tokenize(load_corpus(files, validation=files).train, TOKENIZER)
    options = {"sequence_length": 16, "batch_size": 5, "shuffle": False, "separate": separate}
    stream = new_stream(files, shuffle_buffer=shuffle_buffer, **options)
    assert_equal(stream, PackedBatches(row, **options), 4 * len(row) // 80)
    assert stream.documents.epoch > 2


def test_running_text_has_one_end(tmp_path):
    lines = [f"line {i}\n" for i in range(20)]
    (tmp_path / "lines.txt").write_text("".join(lines))
    stream = PackedStream(
        stream_corpus(f"{tmp_path}/lines.txt", validation=f"{tmp_path}/lines.txt", running_text=True).train,
        TOKENIZER,
        sequence_length=8,
        batch_size=1,
        shuffle=False,
        separate=True,
        running_text=True,
    )
    text = "".join(lines) + "<|endoftext|>"
    batches = list(islice(stream, 60))
    decoded = TOKENIZER.decode(np.concatenate([batch["input_ids"][0] for batch in batches]))
    assert decoded == (text * 20)[: len(decoded)]
    # What opens a pass is not predicted from the end of the one before.
    opens = np.concatenate([batch["labels"][0] for batch in batches]) == -100
    length = len(TOKENIZER(text)["input_ids"])
    assert np.flatnonzero(opens).tolist() == list(range(0, 480, length))


def test_every_epoch_of_a_small_text_is_shuffled_as_a_whole(files):
    ordered = new_stream(files, shuffle=False, batch_size=1)
    shuffled = new_stream(files, seed=3, batch_size=1)
    for _ in range(3):
        one, other = ([next(batches)["input_ids"][0].tolist()] for batches in (ordered, shuffled))
        size = len(ordered._tokens)  # of this epoch
        for sequences, batches in ((one, ordered), (other, shuffled)):
            sequences.extend(next(batches)["input_ids"][0].tolist() for _ in range(size - 1))
        assert sorted(one) == sorted(other)
        assert one != other


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stop=st.integers(0, 70),
    length=st.integers(2, 40),
    shuffle_buffer=st.integers(1, 100),
    separate=st.booleans(),
    shuffle=st.booleans(),
    running_text=st.booleans(),
)
def test_a_stream_continues_where_it_stopped(files, stop, **options):
    options["sequence_length"] = options.pop("length")
    unbroken = new_stream(files, **options)
    for _ in range(stop):
        next(unbroken)
    state = json.loads(json.dumps(unbroken.state_dict()))
    continued = new_stream(files, **options)
    continued.load_state_dict(state)
    assert continued.state_dict() == state
    assert_equal(unbroken, continued, 20)


def test_the_state_is_small(files):
    stream = new_stream(files, shuffle_buffer=40)
    for _ in range(50):
        next(stream)
    assert stream.state_dict()["epoch"] > 1
    assert len(json.dumps(stream.state_dict())) < 1000


def shorter(file: str, folder) -> str:
    """The first document of it alone."""
    with open(file) as lines:
        (folder / "shorter.jsonl").write_text(next(lines))
    return str(folder / "shorter.jsonl")


def test_another_text_where_the_run_stood_is_refused(files, tmp_path):
    stream = new_stream(files, shuffle_buffer=10)
    for _ in range(5):
        next(stream)
    state = stream.state_dict()
    changed = tmp_path / "a.jsonl"
    with open(files[0]) as file:
        changed.write_text(file.read().replace("xyz", "zyx"))
    for other in (
        new_stream([str(changed), files[1]], shuffle_buffer=10),
        new_stream(files, shuffle_buffer=10, seed=1),
        new_stream(files, shuffle_buffer=10, sequence_length=15),
        new_stream([shorter(files[0], tmp_path), files[1]], shuffle_buffer=10),
    ):
        with pytest.raises(ValueError, match="training text is not the one of the checkpoint"):
            other.load_state_dict(state)


def _jsonl(path):
    path.write_text("\n".join(json.dumps({"words": text}) for text in TEXTS))


def _jsonl_gz(path):
    path.write_bytes(gzip.compress("\n".join(json.dumps({"words": text}) for text in TEXTS).encode()))


def _jsonl_xz(path):
    path.write_bytes(lzma.compress("\n".join(json.dumps({"words": text}) for text in TEXTS).encode()))


def _parquet(path):
    pq.write_table(pa.table({"words": TEXTS, "other": range(60)}), path, row_group_size=7)


@pytest.mark.parametrize(
    ("name", "write"),
    [("x.jsonl", _jsonl), ("x.jsonl.gz", _jsonl_gz), ("x.jsonl.xz", _jsonl_xz), ("x.parquet", _parquet)],
)
def test_formats(tmp_path, name, write):
    write(tmp_path / name)
    corpus = stream_corpus(str(tmp_path / name), validation=str(tmp_path / name), text_column="words")
    assert (corpus.source, corpus.sha256, corpus.dataset) == (str(tmp_path / name), None, None)
    assert list(corpus.train.first(3)) == TEXTS[:3]
    first = corpus.train.read()
    again = stream_corpus(str(tmp_path / name), validation=str(tmp_path / name), text_column="words").train
    again.load_state_dict(json.loads(json.dumps(corpus.train.state_dict())))
    rest = []
    while group := again.read():
        rest += group
    assert first + rest == TEXTS


def test_plain_text_is_a_document_a_file_or_lines(tmp_path):
    (tmp_path / "one.txt").write_text("first\nsecond\n")
    (tmp_path / "two.txt.gz").write_bytes(gzip.compress(b"third\nfourth"))
    names = [str(tmp_path / "one.txt"), str(tmp_path / "two.txt.gz")]
    assert stream_corpus(names, validation=names).train.read() == ["first\nsecond\n", "third\nfourth"]
    lines = stream_corpus(names, validation=names, running_text=True).train.read()
    assert lines == ["first\n", "second\n", "third\n", "fourth"]


def test_held_out_text_is_read_as_far_as_it_is_needed(files):
    corpus = stream_corpus(files, validation=files)
    row = first_tokens(corpus.validation, TOKENIZER, 100)
    assert 100 <= len(row) < 300
    assert TOKENIZER.decode(row.tokens).startswith(f"{TEXTS[0]}<|endoftext|>{TEXTS[1]}")
    whole = first_tokens(stream_corpus(files, validation=files).validation, TOKENIZER, 10**6)
    assert whole.bytes == sum(map(len, TEXTS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b'{"text": "abc"}\n{"text": \n'),
        ("x.jsonl.gz", b"not gzip"),
        ("y.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 9)[:30]),
        ("x.jsonl.xz", b"not xz"),
        ("x.txt", b"\xff\xfe"),
        ("x.parquet", b"PAR"),
        ("x.jsonl", b""),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be streamed"):
        stream_corpus(str(tmp_path / name), validation=str(tmp_path / name)).train.read()


def test_what_cannot_be_streamed_is_named(files, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"")
    (tmp_path / "x.txt").write_text("")
    for source, error, words in (
        ("gone.jsonl", FileNotFoundError, r"gone\.jsonl does not exist"),
        (f"{files[0]}[:90%]", FileNotFoundError, r"a part of a file, such as \[:90%\], cannot be streamed"),
        (str(tmp_path / "x.zip"), ValueError, r"x\.zip cannot be streamed; unpack it"),
        ([files[0], str(tmp_path / "x.txt")], ValueError, "of different kinds"),
    ):
        with pytest.raises(error, match=words):
            stream_corpus(source, validation=files)
    with pytest.raises(ValueError, match=r"no column 'body', but \['text'\]; set data\.text_column"):
        stream_corpus(files, validation=files, text_column="body").train.read()
    with pytest.raises(ValueError, match="has 0 tokens, fewer than one sequence of 16"):
        new_stream([str(tmp_path / "x.txt")])
    with pytest.raises(ValueError, match="fewer than one sequence of 5000"):
        new_stream(files, sequence_length=5000)
    with pytest.raises(ValueError, match="the held-out part holds no text"):
        first_tokens(stream_corpus([str(tmp_path / "x.txt")], validation=files).train, TOKENIZER, 9)


# Reads a file once and prints how far the peak of the memory rose, in MiB, behind the first fifth of it.
_READ = """
import resource, sys
from seqzoo.data.text_stream import PackedStream, stream_corpus

class WordLengths:
    eos_token_id = 0
    def __call__(self, texts, **options):
        return {"input_ids": [[len(word) for word in text.split()] for text in texts]}

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
corpus = stream_corpus(sys.argv[1], validation=sys.argv[1])
stream = PackedStream(corpus.train, WordLengths(), sequence_length=128, batch_size=8)
before = None
while stream.documents.epoch == 0:
    next(stream)
    if stream.block == 20 and before is None:
        before = peak()
print(stream.block, peak() - before)
"""


@pytest.mark.slow
def test_memory_and_disk_do_not_grow_with_the_text(tmp_path):
    file = tmp_path / "text.jsonl.gz"
    with gzip.open(file, "wt", compresslevel=1) as stream:
        for i in range(30_000):
            stream.write(json.dumps({"text": f"{i} " + "some words of a long document " * 70}) + "\n")
    home = tmp_path / "home"
    environment = os.environ | {"HF_HOME": str(home)}
    process = subprocess.run([sys.executable, "-c", _READ, str(file)], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    blocks, growth = process.stdout.split()
    assert int(blocks) > 90
    assert float(growth) < 10  # of 63 MB of text, 50 of them read meanwhile
    assert sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) < 100_000
