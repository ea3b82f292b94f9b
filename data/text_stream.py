"""Text that is larger than memory or disk: read while it is trained on, in bounded memory, and never written down.

[`stream_corpus`] opens a source, [`DocumentStream`] reads its documents again and again, [`PackedStream`] packs them
into batches like [`seqzoo.data.text_packing.PackedBatches`] does. Both can be stopped anywhere, continued elsewhere.

Sequences are shuffled in blocks: so many are read, permuted and handed out, then the next ones. The shuffle of the
datasets library is not used, because its `state_dict` leaves the buffer out: where a stream continues, the documents
that waited in it are lost (seen with datasets 5.2). Of a block nothing has to be saved but where it begins: reading on
from there gives the same sequences, and its order follows from the seed and its number.
"""

import hashlib
import lzma
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, load_dataset
from transformers import PreTrainedTokenizerBase

from seqzoo.data.text import Corpus, is_file
from seqzoo.data.text_packing import TokenRow, join_documents, packed_batch, tokenize, tokenize_texts


# Documents are tokenized together until they have so many characters; as many are read again where a run goes on.
_GROUP = 1_000_000
_BUILDERS = {".jsonl": "json", ".parquet": "parquet"}
# What the datasets library unpacks while it reads.
_COMPRESSIONS = {".gz", ".xz"}
# How a damaged file shows itself, compressed or not.
_DAMAGES = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError)


def stream_corpus(
    source: str | list[str],
    *,
    validation: str | list[str],
    name: str | None = None,
    split: str = "train",
    text_column: str = "text",
    running_text: bool = False,
) -> Corpus:
    """Open a source without reading it; the arguments are those of [`seqzoo.data.text.load_corpus`].

    Plain text is one document a file and as such held in memory, one file after the other; with `running_text` it is
    read line by line.

    Raises:
        `FileNotFoundError`: a file that does not exist, or a name that no Hub dataset has.
        `ValueError`: files that cannot be streamed, or not together.
    """
    if isinstance(source, list) or is_file(source):
        train, held_out = (_open_files(part, running_text) for part in (source, validation))
        label, held_out_label = (", ".join([part] if isinstance(part, str) else part) for part in (source, validation))
        dataset = None
    else:
        if not isinstance(validation, str):
            raise ValueError(
                f"beside the Hub dataset {source}, validation names one of its splits, not {validation!r}"
            )
        train, held_out = (_open_hub(source, name, part) for part in (split, validation))
        label = held_out_label = f"{source}/{name}" if name else source
        dataset = None if Path(source).exists() else source
    return Corpus(
        DocumentStream(train, label, text_column),
        DocumentStream(held_out, held_out_label, text_column),
        source=label,
        sha256=None,
        dataset=dataset,
    )


def _open_files(source: str | list[str], running_text: bool) -> IterableDataset:
    paths = [Path(item) for item in ([source] if isinstance(source, str) else source)]
    builders = set()
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"the data file {path} does not exist (working directory {Path.cwd()}); a part of a file, such as "
                "[:90%], cannot be streamed"
            )
        if path.suffix == ".zip":
            raise ValueError(f"{path} cannot be streamed; unpack it, or compress its files as .gz or .xz")
        inner = Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
        builders.add(_BUILDERS.get(inner, "text"))
    if len(builders) > 1:
        raise ValueError(f"{', '.join(map(str, paths))} are of different kinds and cannot be streamed together")
    builder = builders.pop()
    options = {"sample_by": "line" if running_text else "document", "keep_linebreaks": True}
    try:
        return load_dataset(
            builder,
            data_files=[str(path.resolve()) for path in paths],
            split="train",
            streaming=True,
            **(options if builder == "text" else {}),
        )
    except _DAMAGES as error:  # the library has a look at some kinds already here
        raise ValueError(f"{', '.join(map(str, paths))} cannot be streamed: {error}") from error
    except StopIteration as error:  # the library looks for a first row
        raise ValueError(f"{', '.join(map(str, paths))} cannot be streamed: a file is empty") from error


def _open_hub(source: str, name: str | None, split: str) -> IterableDataset:
    try:
        return load_dataset(source, name, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{source!r} (configuration {name}, split {split}) is neither a file here (working directory "
            f"{Path.cwd()}) nor a dataset that the Hub gives: {error}"
        ) from error


class DocumentStream:
    """The documents of a source in its own order, pass after pass.

    Args:
        rows (`IterableDataset`):
            Not shuffled: see the head of this file. Its `set_epoch` is left alone, it would change the order of files.
        source (`str`):
            What is read, for error messages.
        column (`str`):
            Where the rows keep their text; rows without text are passed over.
    """

    def __init__(self, rows: IterableDataset, source: str, column: str):
        self.rows = rows
        self.source = source
        self.column = column
        self.epoch = 0
        self._beginning = rows.state_dict()
        self._place = self._beginning  # behind what was read
        self._texts: Iterator[str] | None = None  # what comes next, while it is being read

    def first(self, count: int) -> Iterator[str]:
        """The first documents, wherever the stream stands; to be used up before [`read`] is called."""
        self.rows.load_state_dict(self._beginning)
        return islice(self._documents(), count)

    def read(self) -> list[str]:
        """The next documents, about a million characters of them; none where a pass ends, then the next one begins."""
        if self._texts is None:
            self.rows.load_state_dict(self._place)
            self._texts = self._documents()
        group, size = [], 0
        for text in self._texts:
            group.append(text)
            size += len(text)
            if size >= _GROUP:
                break
        if group:
            self._place = self.rows.state_dict()
        else:
            self.epoch += 1
            self._place, self._texts = self._beginning, None
        return group

    def _documents(self) -> Iterator[str]:
        try:
            for row in self.rows:
                if self.column not in row:
                    raise ValueError(f"a row has no column {self.column!r}, but {list(row)}; set data.text_column")
                text = row[self.column]
                if text is not None and not isinstance(text, str):
                    raise ValueError(f"a row has no text under {self.column!r} but {text!r:.80}")
                if text:
                    yield text
        except _DAMAGES as error:
            raise ValueError(f"{self.source} cannot be streamed: {error}") from error

    @property
    def at_beginning(self) -> bool:
        """Whether nothing of this pass was read yet."""
        return self._place == self._beginning

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, in JSON's types."""
        return {"epoch": self.epoch, "rows": self._place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken; the file that it lies in is read again from its beginning."""
        self.epoch, self._place, self._texts = state["epoch"], state["rows"], None


def first_tokens(
    documents: DocumentStream, tokenizer: PreTrainedTokenizerBase, count: int, *, running_text: bool = False
) -> TokenRow:
    """The first documents, in all `count` tokens or more where there are as many: what is held out of a stream."""
    texts, size = [], 0
    while size < count and (group := documents.read()):
        texts.extend(group)
        size += sum(map(len, tokenize_texts(group, tokenizer)))
    if not texts:
        raise ValueError("the held-out part holds no text")
    return tokenize(Dataset.from_dict({"text": texts}), tokenizer, running_text=running_text)


class PackedStream:
    """An endless stream of batches from documents that are read as they are needed.

    Unshuffled, the batches are those of [`seqzoo.data.text_packing.PackedBatches`]: the passes over the text follow
    each other without a gap, cut into sequences. Shuffled, blocks of `shuffle_buffer` sequences are permuted, each for
    itself. A block ends where a pass does, so that a text smaller than a block is shuffled as a whole in every epoch.

    Args:
        documents (`DocumentStream`):
            The training text.
        tokenizer (`PreTrainedTokenizerBase`):
            Its end of text goes behind every document.
        sequence_length, batch_size (`int`):
            Tokens of a sequence, sequences of a batch over all processes.
        shuffle_buffer (`int`):
            Sequences of a block; held in memory, five bytes a token.
        seed (`int`):
            Of the order.
        shuffle (`bool`):
            Without it the sequences come in the order of the text.
        separate (`bool`):
            Keep documents in the same sequence apart.
        running_text (`bool`):
            The documents are the lines of one text: a single end of text, behind the last of them.

    Raises:
        `ValueError`: the text is shorter than one sequence.
    """

    def __init__(
        self,
        documents: DocumentStream,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sequence_length: int,
        batch_size: int,
        shuffle_buffer: int = 1000,
        seed: int = 0,
        shuffle: bool = True,
        separate: bool = False,
        running_text: bool = False,
    ):
        self.documents = documents
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.shuffle = shuffle
        self.separate = separate
        self.running_text = running_text
        # Tokenized but not yet in a block: (where its documents begin, tokens, opens) of each group read.
        self._groups: deque[tuple[dict[str, Any], np.ndarray, np.ndarray]] = deque()
        self.skip = 0  # tokens of the first of these groups that earlier blocks took
        self.block = 0
        self._read_block()

    def __iter__(self) -> "PackedStream":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        tokens, opens = zip(*(self._next_sequence() for _ in range(self.batch_size)))
        return packed_batch(np.stack(tokens), np.stack(opens) if self.separate else None)

    def _next_sequence(self) -> tuple[np.ndarray, np.ndarray]:
        if self.offset == len(self._order):
            self.block += 1
            self._read_block()
        index = self._order[self.offset]
        self.offset += 1
        return self._tokens[index], self._opens[index]

    def _read_block(self) -> None:
        """Read documents until they fill a block or their pass ends, then take the block's sequences from them."""
        # Groups are read ahead of a block, so where it begins is known before anything is read for it.
        self._start = {**(self._groups[0][0] if self._groups else self.documents.state_dict()), "skip": self.skip}
        size = sum(len(tokens) for _, tokens, _ in self._groups) - self.skip
        at_last_end = None
        while size < self.shuffle_buffer * self.sequence_length:
            read, ended = self._read_group()
            size += read
            if ended:
                if at_last_end is not None and size - at_last_end < self.sequence_length:
                    raise ValueError(
                        f"the training text has {size - at_last_end} tokens, fewer than one sequence of "
                        f"{self.sequence_length}; lower data.sequence_length or add text"
                    )
                at_last_end = size
                if size >= self.sequence_length:
                    break
        count = min(size // self.sequence_length, self.shuffle_buffer)
        shape = (count, self.sequence_length)
        self._tokens, self._opens = (part.reshape(shape) for part in self._take(count * self.sequence_length))
        self.offset = 0  # sequences of this block that were handed out
        order = np.random.default_rng((self.seed, self.block))
        self._order = order.permutation(count) if self.shuffle else np.arange(count)

    def _read_group(self) -> tuple[int, bool]:
        """Tokenize the next documents; how many tokens came, and whether a pass ended."""
        position, at_beginning = self.documents.state_dict(), self.documents.at_beginning
        texts = self.documents.read()
        if texts:
            ids = tokenize_texts(texts, self.tokenizer)
            text, lengths = np.concatenate(ids), np.array([len(part) for part in ids])
            if self.running_text:
                tokens, opens = text, np.zeros(len(text), dtype=bool)
                opens[:1] = at_beginning
            else:
                tokens, opens = join_documents(text, lengths, self.tokenizer.eos_token_id)
        else:
            end = [self.tokenizer.eos_token_id] if self.running_text and not at_beginning else []
            tokens, opens = np.array(end, dtype=np.int32), np.zeros(len(end), dtype=bool)
        if len(tokens):
            self._groups.append((position, tokens, opens))
        return len(tokens), not texts

    def _take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Take the first tokens out of the groups."""
        tokens, opens = [], []
        while count:
            _, group_tokens, group_opens = self._groups[0]
            stop = min(self.skip + count, len(group_tokens))
            tokens.append(group_tokens[self.skip : stop])
            opens.append(group_opens[self.skip : stop])
            count -= stop - self.skip
            self.skip = stop
            if stop == len(group_tokens):
                self._groups.popleft()
                self.skip = 0
        return np.concatenate(tokens), np.concatenate(opens)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, in JSON's types: where the block begins in the text, and the place in the block."""
        return {**self._start, "block": self.block, "offset": self.offset, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken: the block is read again.

        Raises:
            `ValueError`: what is read there is another text, or is read by another tokenizer or in another order.
        """
        self._groups.clear()
        self.documents.load_state_dict({"epoch": state["epoch"], "rows": state["rows"]})
        self.skip = state["skip"]
        self.block = state["block"]
        changed = ValueError(
            "the training text is not the one of the checkpoint: where the run stood, the files, the tokenizer or "
            "the packing give other tokens. Restore them, or start another run in another folder"
        )
        try:
            # The first group has `skip` tokens that belong to the block before.
            self._read_block()
        except (ValueError, IndexError) as error:  # there is less text than there was
            raise changed from error
        if state["fingerprint"] != self._fingerprint():
            raise changed
        self.offset = state["offset"]

    def _fingerprint(self) -> str:
        """Of the block alone: the text as a whole is never there."""
        digest = hashlib.sha256(repr((self.seed, self.shuffle, self.separate, self._tokens.shape)).encode())
        digest.update(self._tokens)
        digest.update(self._opens)
        return digest.hexdigest()
