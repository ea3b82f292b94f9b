"""Tokenizers for text: an existing one, or one's own: a byte-level BPE, or words."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast


END_OF_TEXT = "<|endoftext|>"
END_OF_LINE, UNKNOWN = "<eos>", "<unk>"  # of words, as WikiText and its users write them


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """An existing tokenizer, from a folder or the Hub.

    GPT-2's original pair of files, `vocab.json` and `merges.txt`, suffices as a folder.

    Raises:
        `ValueError`: it cannot be read, or has no end-of-text token to put between documents.
    """
    folder = Path(path)
    original_gpt2 = (folder / "merges.txt").is_file() and not (folder / "tokenizer.json").is_file()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **({"tokenizer_type": "gpt2"} if original_gpt2 else {}))
    except (OSError, ValueError) as error:
        raise ValueError(f"there is no tokenizer at {path}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer at {path} has no eos_token, which goes between documents; give it one")
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE (GPT-2's kind) whose only special token is `<|endoftext|>`: begin, end and padding.

    Args:
        texts (`Iterable[str]`):
            The training part, and nothing else: held-out text must not shape the vocabulary.
        vocab_size (`int`):
            257 or more: every byte, the end of text, and merges. A text too small for that many gives fewer.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def train_word_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Words between white space, `<eos>` for every end of line: WikiText's usual protocol. Nothing is lower-cased.

    `<eos>` is also begin, end and padding. Decoded, each word has a space before it, as in WikiText's files,
    which come out as they were; and what is generated can go behind its prompt. Decoding with `skip_special_tokens`
    leaves `<eos>` and `<unk>` out.

    Args:
        texts (`Iterable[str]`):
            The training part, and nothing else.
        vocab_size (`int`):
            3 or more: `<eos>`, `<unk>`, and the most frequent words. All other words are `<unk>`. A text with fewer
            words gives fewer.
    """
    words = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    words.normalizer = normalizers.Replace("\n", f" {END_OF_LINE} ")
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.Sequence([decoders.Replace(END_OF_LINE, "\n"), decoders.Replace(Regex(r"\A"), " ")])
    # The trainer counts special tokens in the text a second time: it is told of none, they are put first afterwards.
    words.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=vocab_size, show_progress=False))
    counted = words.get_vocab()
    ranking = sorted(counted.keys() - {END_OF_LINE, UNKNOWN}, key=counted.get)
    vocabulary = [END_OF_LINE, UNKNOWN, *ranking][:vocab_size]
    words.model = models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=END_OF_LINE,
        eos_token=END_OF_LINE,
        pad_token=END_OF_LINE,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
