"""The table of models: `test_models.py` runs every common test over every row. A new model joins by adding one."""

from dataclasses import dataclass, field

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    PreTrainedModel,
)

import seqzoo


@dataclass(frozen=True)
class Row:
    """A model at a size that a test can afford.

    `config` are fields of its config class, dropout included so that evaluation mode is put to the test. `auto_class`
    is the Auto class of its main head. `off` switches tests off: name of the test -> reason, which the run prints.
    `conformance` holds what the model is known to fail of the library's suites (`make conformance`), with the reason.
    """

    name: str
    model_type: str
    config: dict
    auto_class: type = AutoModelForCausalLM
    off: dict[str, str] = field(default_factory=dict)
    conformance: dict[str, str] = field(default_factory=dict)

    def build(self, auto_class=None, **overrides) -> PreTrainedModel:
        """A model in evaluation mode with seeded random weights, every parameter away from 0."""
        torch.manual_seed(0)
        config = AutoConfig.for_model(self.model_type, **(self.config | overrides))
        model = (auto_class or self.auto_class).from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    def inputs(self, batch: int = 2, time: int = 24, seed: int = 0) -> torch.Tensor:
        """Random token ids, [batch, time]."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(3, self.config["vocab_size"], (batch, time), generator=generator)

    def labels(self, inputs: torch.Tensor) -> torch.Tensor:
        """What a loss is taken of."""
        return inputs


TINY_GPT2 = {
    "vocab_size": 99,
    "n_positions": 128,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def _memory(name: str, **config) -> Row:
    reason = "as in GPT-2, there is no method that resizes the positions"
    if config.get("position_embedding_type") == "none":
        reason = "position_embedding_type='none' has no positions to resize"
    conformance = {"test_resize_position_vector_embeddings": reason}
    if config.get("normalize"):
        conformance["test_init_weights_can_init_buffers"] = "the test sets scale=0, which normalize=True refuses"
    return Row(name, "decay_fast_weight_gpt2", TINY_GPT2 | config, conformance=conformance)


# Tests that are about text: tokens, their vocabulary, generation, padding on the left, splits of what is read.
OF_TEXT = (
    *("test_loss_is_the_shifted_cross_entropy", "test_any_split_of_the_sequence_equals_the_whole"),
    *("test_a_padded_row_gives_the_logits_of_the_row_alone", "test_use_cache_false_returns_none"),
    *("test_logits_to_keep", "test_generation_with_cache_equals_without"),
    *("test_left_padded_generation_equals_single_rows", "test_generation_prefilled_in_chunks_equals_whole"),
    *("test_generation_goes_on_from_a_returned_cache", "test_assisted_generation_equals_greedy"),
    *("test_hidden_states_are_returned_per_layer", "test_weights_are_tied_and_the_vocabulary_can_grow"),
    *("test_export_stands_alone", "test_dtype_and_shards_survive"),
)


class PerformanceRow(Row):
    """A model of how notes are played; those that also read what was played before are in its own tests alone."""

    def inputs(self, batch: int = 2, time: int = 24, seed: int = 0) -> torch.Tensor:
        """Random notes, [batch, time, voice]."""
        generator = torch.Generator().manual_seed(seed)
        return torch.stack(
            [torch.randint(size, (batch, time), generator=generator) for size in (109, 109, 109, 17)], -1
        )

    def labels(self, inputs: torch.Tensor) -> torch.Tensor:
        """Velocities and timbres, [batch, time, column]."""
        return inputs[..., [0, 1, 3, 0, 1, 3]] % torch.tensor([16, 16, 16, 4, 4, 2])


def performance_row(architecture: str, autoregressive: bool = False) -> PerformanceRow:
    config = {
        "architecture": architecture,
        "autoregressive": autoregressive,
        "longest_timing": 6,
        "hidden_size": 32,
        "num_hidden_layers": 1 if autoregressive else 2,
        "num_causal_layers": 1,
        "attention_window": 8,
    }
    off = dict.fromkeys(OF_TEXT, "for models that read and write text")
    off["test_forward_documents_its_arguments"] = "these are a language model's"
    if architecture == "regression":
        off["test_same_seed_same_weights_and_evaluation_is_deterministic"] = "a regression has no dropout"
    if architecture != "transformer":
        off["test_gradient_checkpointing_gives_the_same_gradients"] = "only blocks of a transformer are checkpointed"
    return PerformanceRow(f"nes-performance-{architecture}", "nes_performance", config, AutoModel, off)


class ScoreRow(Row):
    """A model that composes scores; labels are the notes themselves, not shifted."""

    def inputs(self, batch: int = 2, time: int = 24, seed: int = 0) -> torch.Tensor:
        """Random notes, [batch, time, voice]; some are silent."""
        generator = torch.Generator().manual_seed(seed)
        notes = torch.randint(33, 109, (batch, time, 4), generator=generator)
        notes[:, :, 3] %= 17
        return notes[:, :, :3] if self.config["architecture"] == "blended" else notes


def score_row(architecture: str) -> ScoreRow:
    config = {"architecture": architecture, "hidden_size": 32, "num_hidden_layers": 2, "context": 8}
    off = dict.fromkeys(OF_TEXT, "for models that read and write text")
    del off["test_any_split_of_the_sequence_equals_the_whole"], off["test_use_cache_false_returns_none"]
    off["test_forward_documents_its_arguments"] = "these are a language model's"
    if architecture != "transformer":
        off["test_gradient_checkpointing_gives_the_same_gradients"] = "only blocks of a transformer are checkpointed"
    return ScoreRow(f"nes-score-{architecture}", "nes_score", config, AutoModel, off)


TINY_TRANSFORMER = {
    "vocab_size": 99,
    "max_position_embeddings": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def _transformer(name: str, **config) -> Row:
    conformance = {"test_resize_position_vector_embeddings": "as in GPT-2, no method resizes the positions"}
    if config.get("is_encoder_decoder"):
        reason = "an encoder and a decoder of the same class, without a base model around them"
        conformance |= dict.fromkeys(
            ("test_base_model_prefix_loads_base_weights", "test_model_base_model_prefix"), reason
        )
    return Row(name, "rezero_transformer", TINY_TRANSFORMER | config, conformance=conformance)


MODELS = [
    _memory("decay"),
    _memory(
        "decay-every-option",
        gate_sides="key",
        gate_init="uniform",
        gate_rank=3,
        state_size=5,
        scale=1.0,
        position_embedding_type="none",
    ),
    _memory("decay-hedgehog-normalized", gate_sides="key", feature_map="hedgehog", normalize=True),
    _memory("gated-elu-normalized", update_rule="gated", feature_map="elu", normalize=True),
    _memory("gated", update_rule="gated"),
    _memory("delta", update_rule="delta", read_before_write=True),
    _memory("delta-dpfp", update_rule="delta", feature_map="dpfp", state_size=32),
    _memory("sum-relu-normalized", update_rule="sum", feature_map="relu", normalize=True, state_size=12),
    _memory("sum-softmax", update_rule="sum", feature_map="softmax"),
    _memory("hybrid", softmax_layers=[1]),
    *map(score_row, ("soloists", "quartet", "transformer", "blended")),
    *map(performance_row, ("regression", "lstm", "transformer")),
    _transformer("rezero"),
    _transformer("rezero-pre-norm", residual="pre_norm", position_embedding_type="sinusoidal"),
]

# Rows for the library's suites alone: the common tests are of models that read and write one sequence.
ENCODER_DECODERS = [
    _transformer("rezero-encoder-decoder", is_encoder_decoder=True, tie_word_embeddings=True),
]


@dataclass(frozen=True)
class ImageRow(Row):
    """A model of images, `image_size` pixels wide and high."""

    auto_class: type = AutoModelForImageClassification
    image_size: int = 12

    def inputs(self, batch: int = 2, seed: int = 0) -> torch.Tensor:
        """Random pixels, [batch, channels, height, width]."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 3, self.image_size, self.image_size, generator=generator)


TINY_RESNET = {"hidden_sizes": [4, 8], "depths": [2, 1], "num_labels": 5}

IMAGE_MODELS = [
    ImageRow("resnet-rezero", "rezero_resnet", TINY_RESNET),
    ImageRow("resnet-vanilla", "rezero_resnet", TINY_RESNET | {"block": "vanilla"}),
    ImageRow("resnet-fixup", "rezero_resnet", TINY_RESNET | {"block": "fixup"}),
    ImageRow("resnet-skipinit", "rezero_resnet", TINY_RESNET | {"block": "skipinit"}),
    ImageRow(
        "resnet-bottleneck",
        "rezero_resnet",
        {
            "hidden_sizes": [8, 16],
            "depths": [1, 2],
            "num_labels": 5,
            "layer_type": "bottleneck",
            "stem": "imagenet",
            "stem_size": 4,
            "shortcut": "projection",
        },
        image_size=16,
    ),
]

assert {row.model_type for row in (*MODELS, *IMAGE_MODELS)} == set(seqzoo.MODELS), "every registered model needs a row"
