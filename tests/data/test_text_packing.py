"""Tokens and batches: nothing lost, nothing twice, and every stream can be stopped and continued."""

from itertools import islice

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from seqzoo.data.text_packing import PackedBatches, TokenRow, held_out_windows, tokenize
from seqzoo.data.text_tokenizer import load_tokenizer, train_tokenizer, train_word_tokenizer


TEXTS = ["A first document.\n", "The second one,\n\n  with lines. äöü €\n", "x", "no. 4 " * 30]


def token_row(count: int, document: int = 7) -> TokenRow:
    """Tokens that are their own positions, so that a batch shows where it comes from."""
    return TokenRow(np.arange(count, dtype=np.int32), np.arange(count) % document == 0, count)


def test_a_tokenizer_of_ones_own_loads_as_any_other(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == 300
    for text in TEXTS:
        assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded("<|endoftext|>")["input_ids"] == [loaded.eos_token_id]
    assert loaded.bos_token_id == loaded.eos_token_id == loaded.pad_token_id == 0
    assert train_tokenizer(TEXTS, 300).get_vocab() == tokenizer.get_vocab()


def test_bytes_as_tokens():
    tokenizer = train_tokenizer(TEXTS, 257)
    assert len(tokenizer("ä€\n")["input_ids"]) == 6


def test_words_are_told_apart_by_white_space_and_lines_by_eos(tmp_path):
    text = " \n = The Title = \n \n the cat , the <unk> @-@ cat \n"
    tokenizer = train_word_tokenizer([text, "the end"], 100)
    words = {"<eos>": 0, "<unk>": 1, "the": 2, "=": 3, "cat": 4, ",": 5, "@-@": 6, "The": 7, "Title": 8, "end": 9}
    assert tokenizer.get_vocab() == words  # by number, then by letter
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == words
    ids = loaded(text)["input_ids"]
    assert ids == [0, 3, 7, 8, 3, 0, 0, 2, 4, 5, 2, 1, 6, 4, 0]
    assert loaded.decode(ids) == text
    assert loaded.decode(ids[:4], skip_special_tokens=True) == " = The Title"
    assert loaded.decode(ids[-4:], skip_special_tokens=True) == " @-@ cat"
    assert loaded("a\tCat  the\r\n\nend")["input_ids"] == [1, 1, 2, 0, 0, 9]
    assert loaded.bos_token_id == loaded.eos_token_id == loaded.pad_token_id == 0
    assert loaded.unk_token_id == 1


def test_a_vocabulary_of_words_has_the_most_frequent_ones_of_the_training_part():
    texts = ["b a\n<unk> <eos> <unk> <unk>\n", "c b a\n", "##c \x1c\n"]
    ranking = ["<eos>", "<unk>", "a", "b", "\x1c", "##c", "c"]
    for size in range(3, 9):
        tokenizer = train_word_tokenizer(texts, size)
        assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == sorted(ranking[:size], key=ranking.index)
    assert tokenizer.decode(tokenizer("##c c\n")["input_ids"]) == " ##c c \n"
    assert train_word_tokenizer(reversed(texts), 8).get_vocab() == tokenizer.get_vocab()


def test_words_of_wikitext2(shared_data):
    """Known numbers of words, ends of line among them; lines by themselves are the same words."""
    text = (shared_data / "wikitext2" / "valid.txt").read_text(encoding="utf-8")
    tokenizer = train_word_tokenizer([text], 33278)
    assert len(tokenizer) == len({*text.split(), "<eos>"})
    row = tokenize(Dataset.from_dict({"text": [text]}), tokenizer)
    assert len(row) == 217_646 + 1  # the end of the document
    assert tokenizer.decode(row.tokens[:-1]) == text
    lines = tokenize(Dataset.from_dict({"text": text.splitlines(keepends=True)}), tokenizer, running_text=True)
    assert (lines.tokens == row.tokens).all()


def test_original_gpt2_files(shared_data):
    tokenizer = load_tokenizer(str(shared_data / "gpt2_bpe"))
    assert tokenizer("Hello world")["input_ids"] == [15496, 995]
    assert tokenizer.eos_token_id == 50256
    with pytest.raises(ValueError, match=r"no tokenizer at .*enwik8"):
        load_tokenizer(str(shared_data / "enwik8"))


@pytest.mark.parametrize("num_proc", [None, 2])
def test_tokenize(num_proc, monkeypatch):
    monkeypatch.setattr("seqzoo.data.text_packing._PIECE", 20)  # the last text goes in pieces
    tokenizer = train_tokenizer(TEXTS, 300)
    row = tokenize(Dataset.from_dict({"text": TEXTS}), tokenizer, num_proc=num_proc)
    assert tokenizer.decode(row.tokens) == "".join(f"{text}<|endoftext|>" for text in TEXTS)
    assert row.bytes == sum(len(text.encode()) for text in TEXTS)
    starts = np.flatnonzero(row.opens)
    assert [tokenizer.decode(part) for part in np.split(row.tokens, starts[1:])] == [
        f"{t}<|endoftext|>" for t in TEXTS
    ]
    running = tokenize(Dataset.from_dict({"text": TEXTS}), tokenizer, running_text=True)
    assert tokenizer.decode(running.tokens) == "".join(TEXTS) + "<|endoftext|>"
    assert running.opens.sum() == 1


def test_long_documents_are_tokenized_as_if_in_one_piece(monkeypatch):
    text = "\n".join("word " * (i % 9) + "." for i in range(300)) + "\n\n\nend"
    tokenizer = train_tokenizer([text], 300)
    whole = tokenize(Dataset.from_dict({"text": [text]}), tokenizer).tokens
    monkeypatch.setattr("seqzoo.data.text_packing._PIECE", 100)
    assert (tokenize(Dataset.from_dict({"text": [text]}), tokenizer).tokens == whole).all()


@pytest.mark.parametrize("train", [train_tokenizer, train_word_tokenizer])
def test_long_lines_are_cut_between_words(monkeypatch, train):
    text = " ".join(f"word{i % 50}" for i in range(300))
    tokenizer = train([text], 300)
    whole = tokenize(Dataset.from_dict({"text": [text]}), tokenizer).tokens
    monkeypatch.setattr("seqzoo.data.text_packing._PIECE", 100)
    assert (tokenize(Dataset.from_dict({"text": [text]}), tokenizer).tokens == whole).all()


@settings(deadline=None)
@given(count=st.integers(8, 200), length=st.integers(2, 8), batch=st.integers(1, 9), shuffle=st.booleans())
def test_epochs_share_nothing_and_remainders_are_kept(count, length, batch, shuffle):
    """Whatever the sizes: an epoch takes each token at most once, and the next one starts with what was left over."""
    batches = PackedBatches(token_row(count), sequence_length=length, batch_size=batch, shuffle=shuffle)
    sequences = np.concatenate([next(batches)["input_ids"] for _ in range(3 * count // (length * batch) + 3)])
    size = count // length
    position = 0
    for epoch in (0, 1):
        taken = sequences[epoch * size : (epoch + 1) * size]
        expected = (position + np.arange(size * length)) % count
        assert sorted(taken.ravel()) == sorted(expected)
        assert ((taken - taken[:, :1]) % count == np.arange(length)).all()
        position = (position + size * length) % count
    if shuffle and size > 20:
        assert (sequences[:size, 0] != sequences[size : 2 * size, 0]).any()


@settings(deadline=None)
@given(stop=st.integers(0, 40), separate=st.booleans(), shuffle=st.booleans())
def test_a_stream_continues_where_it_stopped(stop, separate, shuffle):
    def new():
        return PackedBatches(
            token_row(101), sequence_length=8, batch_size=5, seed=3, separate=separate, shuffle=shuffle
        )

    unbroken = new()
    for _ in range(stop):
        next(unbroken)
    continued = new()
    continued.load_state_dict(unbroken.state_dict())
    for _ in range(10):
        one, other = next(unbroken), next(continued)
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one)


def test_a_stream_of_another_text_or_order_is_refused():
    state = PackedBatches(token_row(100), sequence_length=8, batch_size=2).state_dict()
    for row, options in ((token_row(101), {}), (token_row(100, 8), {}), (token_row(100), {"seed": 1})):
        with pytest.raises(ValueError, match="training text is not the one of the checkpoint"):
            PackedBatches(row, sequence_length=8, batch_size=2, **options).load_state_dict(state)
    with pytest.raises(ValueError, match="5 tokens, fewer than one sequence of 8"):
        PackedBatches(token_row(5), sequence_length=8, batch_size=2)


def test_documents_kept_apart():
    batches = PackedBatches(token_row(70), sequence_length=10, batch_size=7, separate=True)
    for batch in islice(batches, 3):
        ids, labels, positions = batch["input_ids"], batch["labels"], batch["position_ids"]
        opens = ids % 7 == 0
        assert ((labels == -100) == opens).all()
        assert (labels[~opens] == ids[~opens]).all()
        # A position counts from the document's start, or from the sequence's where the document began before it.
        expected = np.minimum(ids % 7, np.arange(10))
        assert (positions == expected).all()


def test_windows_predict_each_token_once():
    row = token_row(24)
    inputs, targets = held_out_windows(row, length=5, max_tokens=1000)
    assert inputs.shape == targets.shape == (5, 5)
    counted = targets != -100
    assert targets[counted].tolist() == list(range(1, 24))
    assert (inputs[counted] == targets[counted] - 1).all()
    assert (held_out_windows(row, length=5, max_tokens=7)[1] != -100).sum() == 7
