"""A teacher, a student and what they read."""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from seqzoo.data.text_packing import TokenRow
from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel


@pytest.fixture
def teacher(conversion) -> GPT2LMHeadModel:
    """The teacher as objectives get it, its weights large enough for attention to matter."""
    model = GPT2LMHeadModel.from_pretrained(conversion["model"]["convert_gpt2"]).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def student(teacher) -> DecayFastWeightGPT2LMHeadModel:
    return DecayFastWeightGPT2LMHeadModel.from_gpt2(teacher)


@pytest.fixture
def held_out() -> TokenRow:
    tokens = np.random.default_rng(0).integers(0, 300, 513, dtype=np.int32)
    return TokenRow(tokens, np.zeros(len(tokens), bool), 1000)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two rows of 20 tokens, each packed from a document of 7 and one of 13."""
    input_ids = torch.randint(0, 300, (2, 20))
    position_ids = torch.cat([torch.arange(7), torch.arange(13)]).repeat(2, 1)
    labels = input_ids.masked_fill(position_ids == 0, -100)
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
