"""What is refused before anything is sent. Pushes themselves: test_push_over_http.py."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from seqzoo.hub_cards import publish
from seqzoo.hub_cards.export import export
from seqzoo.hub_cards.publish import PushError, is_pickle, push


@pytest.fixture
def exported(run_dir, tmp_path):
    export(run_dir, tmp_path / "my-model")
    return tmp_path / "my-model"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse():
        raise AssertionError("nothing may be asked of the Hub")

    monkeypatch.setattr(publish, "HfApi", refuse)


def linked(path, target):
    path.symlink_to(target)


def changed(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def archived(kind="w", **members):
    """The bytes of a tar."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=kind) as archive:
        for name, member in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(member)
            archive.addfile(info, io.BytesIO(member))
    return content.getvalue()


def in_memory(write, **members):
    content = io.BytesIO()
    write(content, **members)
    return content.getvalue()


def nested(levels, content):
    for _ in range(levels):
        content = archived(inner=content)
    return content


CALL = b"cos\nsystem\n(S'exit 0'\ntR."
OBJECTS = np.array([{"a": 1}], dtype=object)
TENSORS = {"weight": torch.ones(2)}


@pytest.mark.parametrize(
    "write",
    [
        *(lambda path, p=protocol: path.write_bytes(pickle.dumps({"a": [1.5, "b"]}, p)) for protocol in range(6)),
        lambda path: path.write_bytes(pickle.dumps(SimpleNamespace(a=1)) + b"and more behind it"),
        lambda path: torch.save(TENSORS, path),
        lambda path: torch.save(TENSORS, path, _use_new_zipfile_serialization=False),
        lambda path: zipped(path, a="text", b=pickle.dumps([1])),
        lambda path: np.save(path.open("wb"), OBJECTS, allow_pickle=True),
        lambda path: np.savez(path.open("wb"), objects=OBJECTS),
        lambda path: np.save(path.open("wb"), np.zeros(1, [(f"field_{i}", "f4") for i in range(400)] + [("o", "O")])),
        *(
            lambda path, c=compress: path.write_bytes(c(pickle.dumps([1])))
            for compress in (gzip.compress, bz2.compress, lzma.compress)
        ),
        # Archives, and what is in them.
        *(
            lambda path, k=kind: path.write_bytes(archived(k, a=b"text", b=pickle.dumps([1])))
            for kind in ("w", "w:gz", "w:bz2", "w:xz")
        ),
        lambda path: path.write_bytes(archived(**{"model.pt": b"not even one"})),
        lambda path: path.write_bytes(nested(4, pickle.dumps([1]))),
        lambda path: zipped(path, a=archived("w:gz", b=pickle.dumps([1]))),
        lambda path: zipped(path, a=in_memory(zipped, b=pickle.dumps([1]))),
        lambda path: path.write_bytes(gzip.compress(in_memory(np.savez, objects=OBJECTS))),
        lambda path: path.write_bytes(pickle.dumps([1]) + in_memory(zipped, a="text")),
        # These run before the unpickler finds anything wrong with them.
        lambda path: path.write_bytes(b"N" + CALL),
        lambda path: path.write_bytes(CALL[:-1]),
        lambda path: path.write_bytes(CALL[:-1] + b"\xff\xff"),
        lambda path: path.write_bytes(CALL[:-1] + b"p0\np0\n."),
        lambda path: path.write_bytes(CALL[:-1] + b"g99\n."),
        lambda path: path.write_bytes(b"(S'exit 0'\nios\nsystem\n"),
    ],
)
def test_pickles_are_known_by_their_content(tmp_path, write):
    path = tmp_path / "weights.safetensors"
    write(path)
    assert is_pickle(path)


def header_of_640_bytes(path):
    """Its length begins with the two bytes that open a pickle of protocol 2."""
    save_file({"a": torch.ones(1)}, path, metadata={"x": ""})
    padding = 640 - int.from_bytes(path.read_bytes()[:8], "little")
    save_file({"a": torch.ones(1)}, path, metadata={"x": "y" * padding})
    assert path.read_bytes()[:2] == b"\x80\x02"


@pytest.mark.parametrize(
    "write",
    [
        header_of_640_bytes,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text(json.dumps({"a": 1})),
        lambda path: path.write_text("ab. A text whose letters are instructions of a pickle, but pop an empty stack"),
        lambda path: path.write_bytes(b"\x8e" + b"\xff" * 8),  # a length beyond all memory
        lambda path: path.write_text("import json\nfrom os import path\nclass A:\n    pass\n"),
        lambda path: path.write_bytes(gzip.compress(b"a text")),
        lambda path: path.write_bytes(b"\x1f\x8b, and no gzip"),
        lambda path: path.write_bytes(gzip.compress(b"\x8e" + b"\xff" * 7 + b"\x3f")),
        lambda path: zipped(path, a="text", b=""),
        lambda path: path.write_bytes(bytes(2048)),
        lambda path: path.write_bytes(nested(4, b"a text")),
        lambda path: path.write_bytes(archived("w:gz", **{"config.yaml": b"task: x\nmodel: y\nbatch: 3\n"})),
        lambda path: np.save(path.open("wb"), np.ones(3)),
    ],
)
def test_other_files_are_no_pickles(tmp_path, write):
    write(tmp_path / "file")
    assert not is_pickle(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (in_memory(zipped, a="text" * 100).replace(b"texttext", b"nextnext", 1), "Bad CRC"),
        (gzip.compress(b"a text")[:-4], "ended before"),
        (archived("w:gz", a=bytes(range(256)) * 99)[:-40], "ended before"),
        (nested(5, b"a text"), "more than 4 archives within one another"),
    ],
    ids=["damaged zip", "short gzip", "short tar", "deep"],
)
def test_an_archive_that_cannot_be_read_is_named(tmp_path, content, reason):
    (tmp_path / "file.x").write_bytes(content)
    with pytest.raises(ValueError, match=rf"file\.x is an archive that cannot be looked into \(.*{reason}"):
        is_pickle(tmp_path / "file.x")


def test_no_file_of_an_export_is_a_pickle(exported):
    assert not any(is_pickle(path) for path in exported.iterdir())


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: (folder / "README.md").unlink(), FileNotFoundError, r"no model card .* `seqzoo export"),
        (lambda folder: (folder / "README.md").write_text("# A model\n"), ValueError, "has no metadata"),
        (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), ValueError, "is not YAML: while"),
        (lambda folder: (folder / "config.json").unlink(), FileNotFoundError, r"config\.json is missing"),
        (lambda folder: (folder / "decaying_fast_weights.py").unlink(), ValueError, "lacks the code"),
        (lambda folder: (folder / "modeling_decay_fast_weight_gpt2.py").unlink(), ValueError, "lacks the code"),
        (
            lambda folder: (folder / "README.md").write_bytes(b"---\nlicense: \xe4\n---\n"),
            ValueError,
            "README.md cannot be",
        ),
        (lambda folder: (folder / "README.md").write_text("---\n- a\n---\n"), ValueError, "README.md cannot be"),
        (lambda folder: (folder / "model.safetensors").unlink(), FileNotFoundError, "has no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"garbage"), ValueError, "damaged or cut off"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.st"}}'),
            FileNotFoundError,
            r"names model-1\.st, which",
        ),
        (lambda folder: linked(folder / "vocab.txt", folder.parent), ValueError, "is a link to"),
        (lambda folder: linked(folder / "vocab.txt", folder / "nothing"), ValueError, "is a link to .*nothing"),
        (lambda folder: linked(folder / "vocab.txt", Path(__file__)), ValueError, "which is not a file of"),
        (lambda folder: changed(folder / "config.json", auto_map=None), ValueError, "lacks the code"),
        (lambda folder: torch.save(TENSORS, folder / "training_args.bin"), ValueError, r"training_args\.bin is a pi"),
        (lambda folder: torch.save(TENSORS, folder / "extra.safetensors"), ValueError, r"remove extra\.safetensors"),
    ],
)
def test_what_others_could_not_load_or_trust_is_refused(exported, damage, error, message):
    damage(exported)
    with pytest.raises(error, match=message):
        push(exported, "someone/my-model")


def test_a_run_that_was_not_exported_is_refused_with_the_remedy(run_dir):
    with pytest.raises(ValueError, match=rf"lacks the code.* `seqzoo export {run_dir} OUT`"):
        push(run_dir, "someone/my-model")


@pytest.mark.parametrize("repo_id", ["a/b/c", "someone/a b", "someone/..", "", "someone/--x", "my-model"])
def test_a_malformed_id_is_refused(exported, repo_id):
    with pytest.raises(ValueError, match=r"(?i)repo.?id|whose repository"):
        push(exported, repo_id)


def test_without_a_folder_nothing_is_asked(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        push(tmp_path / "none", "someone/my-model")


def test_offline_mode_and_a_missing_token_are_named(exported, monkeypatch):
    with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        push(exported, "someone/my-model")
    monkeypatch.setattr(publish, "is_offline_mode", lambda: False)
    monkeypatch.setattr(publish, "get_token", lambda: None)
    with pytest.raises(PushError, match="hf auth login"):
        push(exported, "someone/my-model")
