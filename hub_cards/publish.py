"""Publishing: an exported repository goes to the Hub, in one commit, after a look at what is in it."""

import bz2
import gzip
import json
import lzma
import pickletools
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import devnull
from pathlib import Path
from typing import IO

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, is_offline_mode, metadata_load
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # of the HTTP library that this release uses
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from seqzoo import MODELS, __version__
from seqzoo.hub_cards.model_folder import read_config


# What a run keeps for itself. Hidden files (.git, .cache, .env) are not for the Hub either.
KEPT_BACK = ("checkpoints", "logs", "__pycache__")

# Instructions by which a pickle calls what it imported.
CALLS = ("REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD")
# How files begin that are compressed, and what reads them.
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
LEVELS = 4  # of archives within one another; a compressed tar is two
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")

# Where from_pretrained looks for weights, in one file or in shards.
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


class PushError(OSError):
    """A push that did not get through: one line, with the cause and the remedy."""


def push(
    folder: str | Path, repo_id: str, *, private: bool = False, revision: str | None = None, force: bool = False
) -> str:
    """Uploads an exported repository.

    All files go in one commit, so the Hub has all of a push or nothing of it, and a push that failed is simply done
    again. Files that are there already stay, but for weights that the folder no longer has (a model that is saved in
    shards now would otherwise be loaded from its old single file). `checkpoints/`, `logs/` and hidden files stay here.

    Args:
        folder (`str` or `Path`):
            What [`seqzoo.hub_cards.export.export`] wrote.
        repo_id (`str`):
            `user/name`; made where it does not exist yet.
        private (`bool`, *optional*, defaults to `False`):
            Make a private repository. One that exists and is public is refused.
        revision (`str`, *optional*):
            A branch that exists, instead of `main`.
        force (`bool`, *optional*, defaults to `False`):
            Also push what [`check_folder`] refuses.

    Returns:
        `str`: the address of the repository, or of its branch.

    Raises:
        `FileNotFoundError`, `ValueError`: see [`check_target`] and [`check_folder`]; nothing was sent.
        `PushError`: the Hub refused, or the connection broke.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if not force:
        check_links(folder)
        check_folder(folder, files)
    check_target(repo_id)

    api = HfApi()
    with _explained(repo_id, revision):
        if revision is None:
            # None, not False: an organisation may make its repositories private by default.
            api.create_repo(repo_id, private=private or None, exist_ok=True)
        there = api.model_info(repo_id, revision=revision)
        if private and not there.private:
            raise ValueError(
                f"{repo_id} exists and is public: make it private in its settings on the Hub, or push without private"
            )
        stale = [
            CommitOperationDelete(sibling.rfilename)
            for sibling in there.siblings or []
            if WEIGHTS.fullmatch(sibling.rfilename) and sibling.rfilename not in files
        ]
        if not any(WEIGHTS.fullmatch(name) for name in files):
            stale = []  # forced, without weights of its own: those on the Hub are all that there are
        # Not upload_folder, which may spread a push over several commits.
        api.create_commit(
            repo_id,
            [CommitOperationAdd(name, path) for name, path in files.items()] + stale,
            commit_message=f"Push by seqzoo {__version__}",
            revision=revision,
        )
    return f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")


def check_target(repo_id: str) -> None:
    """Refuses, without network, what no push could reach: a malformed id, no token, offline mode.

    Raises:
        `ValueError`: the id is not of the form `user/name`.
        `PushError`: there is no token, or the environment forbids the network.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} does not say whose repository it is: write user/{repo_id}")
    if is_offline_mode():
        raise PushError("HF_HUB_OFFLINE is set, which forbids the network: unset it to push")
    if get_token() is None:
        raise PushError("the Hub needs a token to push: log in with `hf auth login`, or set HF_TOKEN")


def check_links(folder: Path) -> None:
    """Refuses symbolic links that would send what lies outside of the folder, or nothing.

    Raises:
        `ValueError`: a link out of the folder, to a folder, or to nothing.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and _is_ours(path, folder):
            target = path.resolve()
            if not target.is_file() or not target.is_relative_to(folder.resolve()):
                raise ValueError(
                    f"{path} is a link to {target}, which is not a file of {folder}: put a copy in its place (--force "
                    "pushes the file that it leads to, if there is one)"
                )


def check_folder(folder: Path, files: dict[str, Path]) -> None:
    """Refuses a folder that others could not load or should not have to trust.

    Args:
        folder (`Path`):
            What is to be pushed.
        files (`dict`):
            Its files, by their names in the repository.

    Raises:
        `FileNotFoundError`: it has no `config.json`, no `README.md`, no weights, or not all of their shards.
        `ValueError`: the README has no metadata; the code of a model of the zoo is missing; a file is a pickle.
    """
    config = read_config(folder)
    remedy = f"make a repository of it with `seqzoo export {folder} OUT` and push that"
    if str(config.get("model_type")) in MODELS:
        auto_map = config.get("auto_map")
        names = auto_map.values() if isinstance(auto_map, dict) else ()
        modules = {name.partition(".")[0] for name in names if isinstance(name, str)}
        imported = {
            name.decode()
            for path in files.values()
            if path.suffix == ".py"
            for name in re.findall(rb"^\s*from \.(\w+) import", path.read_bytes(), re.MULTILINE)
        }
        if not modules or any(f"{module}.py" not in files for module in modules | imported):
            raise ValueError(
                f"{folder} lacks the code of its model, so only seqzoo could load it: {remedy} (--force pushes it "
                "as it is)"
            )
    if "README.md" not in files:
        raise FileNotFoundError(f"{folder} has no model card (README.md): {remedy} (--force pushes it without)")
    try:
        metadata = metadata_load(folder / "README.md")
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata of {folder / 'README.md'} is not YAML: {_one_line(error)}") from error
    except ValueError as error:  # of another encoding, or no mapping
        raise ValueError(f"{folder / 'README.md'} cannot be read as a card: {_one_line(error)}") from error
    _check_weights(folder, files)
    if not metadata:
        raise ValueError(
            f"{folder / 'README.md'} has no metadata (licence, task, ...) between two lines of ---: {remedy} "
            "(--force pushes it without)"
        )
    for name, path in files.items():
        if path.suffix.lower() in PICKLE_SUFFIXES or is_pickle(path):
            raise ValueError(
                f"{path} is a pickle, which can run any code on the machine that loads it: save tensors as "
                f"safetensors and remove {name} (--force pushes it)"
            )


def _check_weights(folder: Path, files: dict[str, Path]) -> None:
    weights = {name: path for name, path in files.items() if WEIGHTS.fullmatch(name)}
    if not weights:
        raise FileNotFoundError(f"{folder} has no model.safetensors: save the model there (--force pushes it without)")
    for name, path in weights.items():
        try:
            if name.endswith(".json"):
                needed = json.loads(path.read_bytes())["weight_map"].values()
                missing = sorted(set(needed) - files.keys())
                if missing:
                    raise FileNotFoundError(f"{path} names {', '.join(missing)}, which {folder} lacks: save it again")
            else:
                with safe_open(path, "pt"):
                    pass
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged or cut off ({_one_line(error)}): save the model again") from error


def is_pickle(path: Path) -> bool:
    """Whether a file is or holds a pickle, whatever its name: raw, as NumPy objects, or in what is compressed (gzip,
    bzip2, xz) or archived (zip, as of torch.save; tar), also within one another.

    Raises:
        `ValueError`: an archive that is damaged, locked, or more than `LEVELS` within one another.
    """
    with path.open("rb") as file:
        try:
            return _holds_pickle(file)
        except (*_DAMAGED, RuntimeError) as error:  # RuntimeError: locked by a password, or too deep
            raise ValueError(f"{path} is an archive that cannot be looked into ({error}): remove it") from error


def _holds_pickle(file: IO[bytes], levels: int = LEVELS) -> bool:
    file.seek(257)
    is_tar = file.read(5) == b"ustar"  # it begins with the name of a file, which may read as an instruction
    if not is_tar and _reads_as_pickle(file):
        return True
    for name, member in _members(file):
        if levels == 0:
            raise RuntimeError(f"more than {LEVELS} archives within one another")
        if name.lower().endswith(PICKLE_SUFFIXES) or _holds_pickle(member, levels - 1):
            return True
    return False


def _members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of the files in an archive; what is compressed is one without a name."""
    file.seek(0)
    head = file.read(6)
    for start, decompressed in COMPRESSED.items():
        if head.startswith(start):
            file.seek(0)
            with decompressed(file) as content:
                try:
                    content.read(1)
                except (OSError, zlib.error, lzma.LZMAError):  # it only begins like one
                    continue
                yield "", content
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    yield name, member
    file.seek(0)
    try:
        archive = tarfile.open(fileobj=file, mode="r:")
    except tarfile.ReadError:
        return
    with archive:
        for member in archive:
            if member.isfile():
                yield member.name, archive.extractfile(member)


def _reads_as_pickle(file: IO[bytes]) -> bool:
    """Follows the instructions of a pickle, stack included, without executing one.

    Where that fails, one that would have called something by then is a pickle all the same: loading runs it before it
    finds anything wrong.
    """
    file.seek(0)
    head = file.read(12)
    if head.startswith(b"\x93NUMPY"):
        size = int.from_bytes(head[8:10] if head[6] == 1 else head[8:12], "little")
        return b"|O" in head[10:] + file.read(size)  # the type of Python objects
    file.seek(0)
    imported = marked = False
    try:
        for opcode, _, _ in pickletools.genops(file):
            marked |= opcode.name == "MARK"
            imported |= opcode.name in ("GLOBAL", "STACK_GLOBAL")
            if (imported and opcode.name in CALLS) or (marked and opcode.name == "INST"):
                return True
    except (ValueError, IndexError, OverflowError, MemoryError, struct.error):  # lengths that only look like some
        return False
    file.seek(0)
    try:
        with open(devnull, "w") as out:
            pickletools.dis(file, out)
    except (ValueError, IndexError, OverflowError):
        return False
    return True


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and _is_ours(path, folder))


def _is_ours(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return not (parts[0] in KEPT_BACK or any(part.startswith(".") for part in parts))


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turns the many ways in which a request fails into one `PushError`."""
    try:
        yield
    except ValueError as error:  # of the Hub's judge of cards, in several lines
        raise ValueError(_one_line(error)) from error
    except (HTTPError, OSError, RuntimeError) as error:
        # An upload that fails in a thread is wrapped in a RuntimeError.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise PushError(_explain(cause, repo_id, revision)) from error


def _explain(error: BaseException, repo_id: str, revision: str | None) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return "the Hub does not accept the token: log in with `hf auth login`, or set HF_TOKEN to a valid one"
    if status == 403:
        return f"the token may not write to {repo_id}: use one that may, or a repository of your own"
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{repo_id} has no branch {revision!r}: make it with `hf repos branch create {repo_id} {revision}` and "
            "push again, or push without --revision"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no repository {repo_id}, or the token may not see it: check the id, and push to a new "
            "repository without --revision first"
        )
    if status is not None:
        remedy = "push again later" if status == 429 or status >= 500 else "put that right and push again"
        return f"the Hub refused the push to {repo_id} ({_one_line(error)}): {remedy}"
    return (
        f"the connection broke while pushing to {repo_id} ({_one_line(error)}): push again; weights that have "
        "arrived are not sent twice"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
