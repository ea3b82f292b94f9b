"""The library's own suites over every row of `model_table.py`: `make conformance`.

Not named `test_*.py`: a run of `tests/` leaves it out, because it needs what `library.py` downloads. Tests that a row
is known to fail stand in its `conformance`, each with the reason; one that begins to pass is a failure too.
"""

import functools
import unittest
from contextlib import nullcontext

import pytest
import torch
import transformers
from conformance.library import load
from model_table import ENCODER_DECODERS, IMAGE_MODELS, MODELS, ImageRow, Row
from transformers import AutoConfig, PreTrainedConfig

import seqzoo


ConfigTester = load("test_configuration_common").ConfigTester
TrainingTesterMixin = load("test_training_mixin").TrainingTesterMixin
GenerationTesterMixin = load("test_modeling_common").GenerationTesterMixin
ModelTesterMixin = load("test_modeling_common").ModelTesterMixin

# The suites look up in these tables what a class is for: which labels it takes, whether it has a loss. Registration,
# being for models outside of the library, leaves them alone.
for model_type, (_, model_names) in seqzoo.MODELS.items():
    for auto_name, model_name in model_names.items():
        getattr(transformers, auto_name)._model_mapping._model_mapping[model_type] = model_name


class ModelTester:
    """What the suites ask about a model, by the names that they use."""

    is_training = True
    batch_size = 13
    seq_length = 7

    def __init__(self, row: Row):
        self.row = row
        self.is_encoder_decoder = self.get_config().is_encoder_decoder
        self.num_hidden_layers = self.get_config().num_hidden_layers
        self.hidden_size = self.get_config().hidden_size
        self.num_attention_heads = self.get_config().num_attention_heads
        self.causal_lm_class = getattr(seqzoo, seqzoo.MODELS[row.model_type][1].get("AutoModelForCausalLM", ""), None)

    def get_config(self) -> PreTrainedConfig:
        return AutoConfig.for_model(self.row.model_type, **self.row.config)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        ids = self.row.inputs(self.batch_size, self.seq_length)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.is_encoder_decoder:
            inputs |= {"decoder_input_ids": ids.clone(), "decoder_attention_mask": torch.ones_like(ids)}
        return self.get_config(), inputs


class ImageModelTester:
    """The same about a model of images."""

    is_training = True
    batch_size = 13
    is_encoder_decoder = False
    causal_lm_class = None

    def __init__(self, row: ImageRow):
        self.row = row

    def get_config(self) -> PreTrainedConfig:
        return AutoConfig.for_model(self.row.model_type, **self.row.config)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        return self.get_config(), {"pixel_values": self.row.inputs(self.batch_size)}


class Suites(ModelTesterMixin):
    # The suite takes a file without a year of copyright for too old to be held to this.
    test_can_init_all_missing_weights_before_2023 = True

    def test_config(self):
        row = self.model_tester.row
        ConfigTester(self, type(self.model_tester.get_config()), **row.config).run_common_tests()


class ImageSuites(ModelTesterMixin):
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True

    def test_config(self):
        # `num_labels` is an argument and no field: config files have the names of the labels.
        fields = {key: value for key, value in self.model_tester.row.config.items() if key != "num_labels"}
        config_class = type(self.model_tester.get_config())
        ConfigTester(self, config_class, has_text_modality=False, common_properties=[], **fields).run_common_tests()

    @unittest.skip("images have no table of embeddings")
    def test_model_get_set_embeddings(self): ...

    @unittest.skip("hidden states are of stages, [batch, channels, height, width]: tests/test_image_models.py")
    def test_hidden_states_output(self): ...


def suites(row: Row) -> type[unittest.TestCase]:
    """The suites that are for a model of this kind, over one row."""
    of_images = isinstance(row, ImageRow)
    tester = ImageModelTester(row) if of_images else ModelTester(row)
    classes = tuple(
        getattr(seqzoo, name)
        for auto_name, name in seqzoo.MODELS[row.model_type][1].items()
        if (auto_name == "AutoModelForSeq2SeqLM") == tester.is_encoder_decoder
    )
    bases = [ImageSuites if of_images else Suites]
    if any(model_class.can_generate() for model_class in classes):
        bases.append(GenerationTesterMixin)
    if tester.causal_lm_class in classes:
        bases.append(TrainingTesterMixin)
    attributes = {
        "all_model_classes": classes,
        "model_tester": tester,
        "is_encoder_decoder": tester.is_encoder_decoder,
        "has_attentions": "attentions" in (classes[0]._can_record_outputs or {}),
        "test_resize_position_embeddings": hasattr(tester.get_config(), "max_position_embeddings"),
    }
    case = type(row.name, (*bases, unittest.TestCase), attributes)
    for test, reason in row.conformance.items():
        setattr(case, test, known_to_fail(getattr(case, test), reason))
    return case


def known_to_fail(test, reason: str):
    """`test` as an expected failure, without subtests: where only these fail, pytest takes the test for passed."""

    @functools.wraps(test)
    def without_subtests(self):
        self.subTest = lambda *args, **kwargs: nullcontext()
        test(self)

    return pytest.mark.xfail(reason=reason, strict=True)(without_subtests)


# The suites give a model tokens or pixels; scores are neither.
TEXT_MODELS = [row for row in MODELS if "vocab_size" in row.config]
globals().update({row.name: suites(row) for row in TEXT_MODELS + ENCODER_DECODERS + IMAGE_MODELS})
