"""Text sources: every format, the split, and errors that name the file."""

import gzip
import hashlib
import json
import lzma
import zipfile

import pytest
from datasets import Dataset

from seqzoo.data.text import embedded_documents, load_corpus


def train_text(*arguments, **options) -> list[str]:
    return load_corpus(*arguments, **options).train["text"][:]


def test_embedded_text_has_no_paragraph_twice():
    documents = embedded_documents()
    text = "".join(documents)
    assert len(text) > 1_000_000
    assert "Assert statements are a convenient way to insert debugging assertions" in text
    corpus = load_corpus("embedded", validation_fraction=0.1)
    paragraphs = [
        {" ".join(paragraph.split()) for document in part["text"] for paragraph in document.split("\n\n")}
        for part in (corpus.train, corpus.validation)
    ]
    assert not paragraphs[0] & paragraphs[1]
    assert len(corpus.train) + len(corpus.validation) == len(documents)
    assert corpus.license == "psf-2.0"


def test_every_file_format_gives_the_same_documents(tmp_path):
    documents = ["One.\nTwo lines.", "Zwei: äöü\n", "three"]
    rows = "\n".join(json.dumps({"text": document, "id": 1}) for document in documents).encode()
    (tmp_path / "a.jsonl").write_bytes(rows + b"\n\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(rows))
    Dataset.from_dict({"text": documents}).to_parquet(tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("folder/a.jsonl", rows)
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        for number in (2, 0, 1):
            archive.writestr(f"{number}.txt", documents[number])
    (tmp_path / "held out").write_text("held out")
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.parquet", "rows.zip", "texts.zip"):
        corpus = load_corpus(str(tmp_path / name), validation=str(tmp_path / "held out"))
        assert corpus.train["text"][:] == documents, name
        assert corpus.validation["text"][:] == ["held out"]
    expected = hashlib.sha256("".join(f"{text}\0" for text in [*documents, "held out"]).encode()).hexdigest()
    assert corpus.sha256 == expected
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.txt").write_text(document)
    files = [str(tmp_path / f"{number}.txt") for number in range(3)]
    assert train_text(files, validation=files[:1]) == documents
    assert train_text([files[0], str(tmp_path / "a.jsonl")], validation=files[0]) == [documents[0], *documents]


def test_a_folder_stands_for_a_hub_dataset(tmp_path):
    Dataset.from_dict({"body": ["one", "two"]}).to_parquet(tmp_path / "set" / "train-0.parquet")
    Dataset.from_dict({"body": ["three"]}).to_parquet(tmp_path / "set" / "test-0.parquet")
    corpus = load_corpus(str(tmp_path / "set"), text_column="body", validation="test")
    assert (corpus.train["text"][:], corpus.validation["text"][:]) == (["one", "two"], ["three"])
    assert len(load_corpus(str(tmp_path / "set"), text_column="body").validation) == 1
    with pytest.raises(ValueError, match=r"no column 'text', but \['body'\]"):
        load_corpus(str(tmp_path / "set"))


def test_cuts_share_nothing_and_lose_nothing(tmp_path):
    text = "äbcdé€fgh𝄞ij" * 50
    path = tmp_path / "text"
    path.write_text(text)
    size = len(text.encode())
    for first, second in ((size // 3, size // 2), (11, 16), (1, size - 1)):
        parts = [
            train_text(f"{path}[{cut}]", validation=str(path))[0]
            for cut in (f":{first}", f"{first}:{second}", f"{second}:")
        ]
        assert "".join(parts) == text
    percent = [train_text(f"{path}[{cut}]", validation=str(path))[0] for cut in ("0%:90%", "90%:95%", "95%:100%")]
    assert "".join(percent) == text
    assert len(percent[0].encode()) == pytest.approx(0.9 * size, abs=4)


def test_holding_out_depends_on_the_text_alone(tmp_path):
    documents = [f"document {i}" for i in range(100)]
    for name, order in (("a", documents), ("b", documents[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in order))
    one, other = (load_corpus(str(tmp_path / f"{name}.jsonl"), validation_fraction=0.13) for name in "ab")
    assert len(one.validation) == 13
    assert set(one.validation["text"]) == set(other.validation["text"])
    assert sorted([*one.train["text"], *one.validation["text"]]) == sorted(documents)
    (tmp_path / "single.txt").write_text("a" * 90 + "b" * 10)
    running = load_corpus(str(tmp_path / "a.jsonl"), validation_fraction=0.13, running_text=True)
    assert running.train["text"][:] + running.validation["text"][:] == documents
    assert len(running.validation) == 13
    single = load_corpus(str(tmp_path / "single.txt"), validation_fraction=0.1)
    assert (single.train["text"][0], single.validation["text"][0]) == ("a" * 90, "b" * 10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "data file .*gone.txt does not exist"),
        ("bad.jsonl", b'{"text": "fine"}\n{"txt": "?"}', "line 2 of bad.jsonl is no JSON object with the key 'text'"),
        ("three.jsonl", b'{"text": 3}', "line 1 of three.jsonl has no text under .text. but 3"),
        ("bad.txt", b"abc\xff", r"bad.txt is not UTF-8 text \(byte 3\)"),
        ("bad.txt.gz", b"not gzip", "bad.txt.gz is damaged"),
        ("cut.txt.xz", lzma.compress(b"text " * 99)[:-20], "cut.txt.xz is damaged"),
        ("bad.zip", b"PK", "bad.zip is damaged"),
        ("bad.parquet", b"PAR1", "bad.parquet is no parquet file"),
        ("a.jsonl[:5]", b"{}", "only plain text can be cut"),
        ("empty.txt", b"", "holds no text"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name.partition("[")[0]).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_corpus(str(tmp_path / name))


def test_names_that_are_neither_file_nor_dataset():
    with pytest.raises(FileNotFoundError, match=r"'nobody/nothing' .* neither a file here .* nor a dataset"):
        load_corpus("nobody/nothing")


def test_embedded_text_drops_what_occurred_before(monkeypatch):
    first, twice, again = "The first of all paragraphs.", "Twice,\nbut in  two\nlines.", "Twice, but in two lines."
    texts = [f"{first}\n\n{twice}", f"{again}\n\n    Indented as it was before.\n\n", f"{first}\n \t\n{first}"]
    texts += ["Too short.\n\n>>> a session of the interpreter\n\na = [b(c) for c in d(e, f=1) if c > 2]"]
    monkeypatch.setattr("seqzoo.data.text._embedded_texts", lambda: iter(texts))
    assert embedded_documents.__wrapped__() == (f"{first}\n\n{twice}\n", "    Indented as it was before.\n")
