"""From documents to batches: one long row of tokens, cut into sequences of equal length.

[`tokenize`] puts the end of text behind every document and lines all of them up. [`PackedBatches`] cuts that row into
sequences, in a new order every epoch, for ever. What it yields is the batch of ALL processes together: each takes its
own rows, so any number of processes sees the same batches in the same order.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase


# Documents are tokenized in pieces, so many at a time: in one go, enwik8 would take a tokenizer gigabytes.
_PIECE = 100_000
_PIECES_AT_A_TIME = 100


@dataclass(frozen=True)
class TokenRow:
    """Tokenized documents, one behind the other.

    Args:
        tokens (`int32 [n]`):
            Token ids, the end of text behind every document.
        opens (`bool [n]`):
            True where a document begins.
        bytes (`int`):
            Size of the text in UTF-8, without the ends of text.
    """

    tokens: np.ndarray
    opens: np.ndarray
    bytes: int

    def __len__(self) -> int:
        return len(self.tokens)


def tokenize(
    documents: Dataset, tokenizer: PreTrainedTokenizerBase, *, running_text: bool = False, num_proc: int | None = None
) -> TokenRow:
    """Tokenize the column `text`.

    Args:
        running_text (`bool`):
            The rows are the lines of one text: a single end of text, behind the last of them.
        num_proc (`int`, *optional*):
            Processes that share the work.
    """
    columns = documents.map(
        partial(_tokenize_batch, tokenizer=tokenizer),
        batched=True,
        batch_size=100,
        num_proc=num_proc,
        remove_columns=documents.column_names,
        desc="tokenizing",
    )
    ids = columns.data.column("ids")
    lengths = np.concatenate([chunk.value_lengths().to_numpy() for chunk in ids.chunks]).astype(np.int64)
    text = np.concatenate([chunk.flatten().to_numpy() for chunk in ids.chunks])
    size = sum(columns["bytes"])
    if running_text:
        lengths = lengths.sum(keepdims=True)
    return TokenRow(*join_documents(text, lengths, tokenizer.eos_token_id), size)


def join_documents(text: np.ndarray, lengths: np.ndarray, end_of_text: int) -> tuple[np.ndarray, np.ndarray]:
    """Put an end of text behind every document that has tokens.

    Args:
        text (`int32 [n]`), lengths (`int64 [documents]`):
            Tokens of the documents, one behind the other, and how many each has.

    Returns:
        `(tokens, opens)`: the row, and where in it documents begin.
    """
    lengths = lengths[lengths > 0]
    tokens = np.insert(text, np.cumsum(lengths), end_of_text)
    opens = np.zeros(len(tokens), dtype=bool)
    opens[np.cumsum(lengths + 1) - lengths - 1] = True
    return tokens, opens


def _tokenize_batch(batch: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list]:
    return {
        "ids": tokenize_texts(batch["text"], tokenizer),
        "bytes": [len(text.encode()) for text in batch["text"]],
    }


def tokenize_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The tokens (int32) of each text, without an end of text; long ones go through the tokenizer in pieces."""
    documents = [_pieces(text) for text in texts]
    pieces = [piece for document in documents for piece in document]
    tokenized = []
    for start in range(0, len(pieces), _PIECES_AT_A_TIME):
        some = pieces[start : start + _PIECES_AT_A_TIME]
        ids = tokenizer(some, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        tokenized.extend(np.array(piece, dtype=np.int32) for piece in ids)
    pieces = iter(tokenized)
    return [np.concatenate([next(pieces) for _ in document]) for document in documents]


def _pieces(text: str) -> list[str]:
    """Cut before line breaks, or where there is none before a space: tokenizers cut there as well."""
    pieces = []
    start = 0
    while len(text) - start > _PIECE:
        stop = text.rfind("\n", start + 1, start + _PIECE)
        stop = stop if stop > start else text.rfind(" ", start + 1, start + _PIECE)
        while stop > start and text[stop - 1].isspace():  # the first of a run of breaks
            stop -= 1
        stop = stop if stop > start else start + _PIECE
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


class PackedBatches:
    """An endless stream of batches, which can be stopped anywhere and continued elsewhere.

    An epoch has `n = len(row) // sequence_length` sequences that lie one behind the other in the row, taken in an
    order drawn from `(seed, epoch)`. The tokens left over behind the last one open the first sequence of the next
    epoch (the row is a ring), so none is lost and every epoch cuts the text elsewhere. Batches run on over the ends of
    epochs: each has exactly `batch_size` sequences.

    A batch is what [`packed_batch`] makes of `batch_size` sequences.

    Args:
        row (`TokenRow`):
            The training text.
        sequence_length, batch_size (`int`):
            Tokens of a sequence, sequences of a batch over all processes.
        seed (`int`):
            Of the order.
        shuffle (`bool`):
            Without it the sequences come in the order of the text.
        separate (`bool`):
            Keep documents in the same sequence apart.

    Raises:
        `ValueError`: the text is shorter than one sequence.
    """

    def __init__(
        self,
        row: TokenRow,
        *,
        sequence_length: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        separate: bool = False,
    ):
        if len(row) < sequence_length:
            raise ValueError(
                f"the training text has {len(row)} tokens, fewer than one sequence of {sequence_length}; "
                "lower data.sequence_length or add text"
            )
        self.row = row
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.separate = separate
        self.epoch = 0
        self.offset = 0  # sequences of this epoch that were handed out
        self.remainder_start = 0  # where the first sequence of this epoch begins in the row
        self._order = self._draw_order()

    def _draw_order(self) -> np.ndarray:
        count = len(self.row) // self.sequence_length
        return np.random.default_rng((self.seed, self.epoch)).permutation(count) if self.shuffle else np.arange(count)

    def __iter__(self) -> "PackedBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        starts = np.array([self._next_start() for _ in range(self.batch_size)])
        index = (starts[:, None] + np.arange(self.sequence_length)) % len(self.row)  # [batch, sequence]
        return packed_batch(self.row.tokens[index], self.row.opens[index] if self.separate else None)

    def _next_start(self) -> int:
        if self.offset == len(self._order):
            self.remainder_start = (self.remainder_start + self.offset * self.sequence_length) % len(self.row)
            self.epoch += 1
            self.offset = 0
            self._order = self._draw_order()
        start = self.remainder_start + int(self._order[self.offset]) * self.sequence_length
        self.offset += 1
        return start

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, in JSON's types. The order itself follows from the seed and the epoch."""
        return {
            "epoch": self.epoch,
            "offset": self.offset,
            "remainder_start": self.remainder_start,
            "fingerprint": self._fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken.

        Raises:
            `ValueError`: the state belongs to another text, another tokenizer or another order.
        """
        if state["fingerprint"] != self._fingerprint():
            raise ValueError(
                "the training text is not the one of the checkpoint: the files, the tokenizer, the packing or (for "
                "embedded text) the Python version changed. Restore them, or start another run in another folder"
            )
        self.epoch = state["epoch"]
        self.offset = state["offset"]
        self.remainder_start = state["remainder_start"]
        self._order = self._draw_order()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.sequence_length, self.seed, self.shuffle, self.separate)).encode())
        digest.update(self.row.tokens)
        digest.update(self.row.opens)
        return digest.hexdigest()


def packed_batch(tokens: np.ndarray, opens: np.ndarray | None) -> dict[str, np.ndarray]:
    """What a model gets: int64 arrays `[batch, sequence]`.

    Args:
        tokens (`int32 [batch, sequence]`):
            Packed sequences.
        opens (`bool [batch, sequence]`, *optional*):
            Where documents begin that are to be kept apart.

    Returns:
        `input_ids` and `labels` (not shifted), with `opens` also `position_ids` that restart where documents begin;
        `labels` are -100 there, for nothing precedes a document.
    """
    input_ids = tokens.astype(np.int64)
    if opens is None:
        return {"input_ids": input_ids, "labels": input_ids.copy()}
    steps = np.arange(tokens.shape[1])
    document_start = np.maximum.accumulate(np.where(opens, steps, 0), axis=1)
    return {
        "input_ids": input_ids,
        "labels": np.where(opens, -100, input_ids),
        "position_ids": steps - document_start,
    }


def held_out_windows(row: TokenRow, length: int, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut held-out text into windows in which each token but the first is predicted exactly once.

    Returns:
        `(inputs, targets)`, both int64 `[windows, length]`; target `t` of a window is the token behind input `t`.
        The last window, where the text ends within it, is filled up with targets of -100.
    """
    count = min(max_tokens, len(row) - 1)
    windows = -(-count // length)
    inputs = np.full(windows * length, row.tokens[0], dtype=np.int64)
    targets = np.full(windows * length, -100, dtype=np.int64)
    inputs[:count] = row.tokens[:count]
    targets[:count] = row.tokens[1 : count + 1]
    return inputs.reshape(windows, length), targets.reshape(windows, length)
