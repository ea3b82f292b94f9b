"""A finished run for the tests of this room: a small model of the table, its tokenizer, what it measured."""

import json

import pytest
from model_table import MODELS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def metrics():
    """A `metrics.json` in which no two numbers are the same, so that a card cannot mix them up."""
    return {
        "schema": 1,
        "model_type": "decay_fast_weight_gpt2",
        "parameters": 12345,
        "recipe": "decay_fast_weight_gpt2/demo",
        "base_model": "openai-community/gpt2",
        "start": "convert_gpt2",
        "data": {
            "source": "Salesforce/wikitext/wikitext-2-raw-v1",
            "dataset": "Salesforce/wikitext",
            "sha256": "ab" * 32,
            "python": "3.11.7",
            "train_tokens": 1001001,
            "train_bytes": 2002002,
            "validation_tokens": 3003,
            "validation_bytes": 4004,
            "license": "cc-by-sa-4.0",
        },
        "training": {
            "steps": 1100,
            "tokens_seen": 1126400,
            "seconds": 123.4,
            "tokens_per_second": 9128.0,
            "sequence_length": 128,
            "batch_size": 8,
            "final_loss": 2.3456,
            "best_step": 1050,
            "num_processes": 2,
            "seed": 17,
        },
        "history": {"train": [[1, 6.5], [1100, 2.3456]], "validation": [[1050, 2.4]]},
        "evaluation": {
            "loss": 2.4,
            "perplexity": 11.0232,
            "bits_per_byte": 1.8765,
            "tokens": 3002,
            "bytes": 4001,
            "by_length": {
                "2048": {"loss": 2.7, "perplexity": 14.88, "bits_per_byte": 2.111},
                "128": {"loss": 2.4, "perplexity": 11.0232, "bits_per_byte": 1.8765},
                "256": {"loss": 2.35, "perplexity": 10.49, "bits_per_byte": 1.837},
            },
            "position_embedding_type": "learned_clamped",
            "unigram": {"loss": 5.9, "perplexity": 365.04, "bits_per_byte": 4.613},
        },
        "comparison": {
            "teacher": {"bits_per_byte": 1.8543, "perplexity": 10.71},
            "student": {"bits_per_byte": 1.8765, "perplexity": 11.0232},
            "from_scratch": {"bits_per_byte": 1.999, "perplexity": 12.93},
            "unigram": {"bits_per_byte": 4.613, "perplexity": 365.04},
            "share_kept": 0.9716,
        },
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "date": "2026-01-02T03:04:05+00:00",
    }


@pytest.fixture
def write_run():
    """Writes what a training run leaves, with a tokenizer of as many words as the model has; returns the model."""

    def write(row, folder, metrics=None):
        model = row.build()
        model.save_pretrained(folder)
        words = ["<bos>", "<eos>", "<pad>", "The", *(f"word{i}" for i in range(4, row.config["vocab_size"]))]
        word_level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
        word_level.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=word_level, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
        )
        tokenizer.save_pretrained(folder)
        if metrics is not None:
            (folder / "metrics.json").write_text(json.dumps(metrics))
        return model

    return write


@pytest.fixture
def run_dir(tmp_path, metrics, write_run):
    """The folder of a run of the first model of the table."""
    write_run(MODELS[0], tmp_path / "run", metrics)
    return tmp_path / "run"
