"""A state that is taken back exactly, and one that is written to a file and continued in another process."""

import json
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from model_table import MODELS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_models import assert_close


ROW = MODELS[0]
BY_NAME = {row.name: row for row in MODELS if row.model_type == "decay_fast_weight_gpt2"}


def states(cache):
    return [layer.state if hasattr(layer, "state") else layer.keys for layer in cache.layers]


class TestRollback:
    @settings(max_examples=25, deadline=None)
    @given(
        name=st.sampled_from(sorted(BY_NAME)),
        prompt=st.integers(0, 5),
        calls=st.lists(st.integers(1, 12), min_size=1, max_size=4),
        data=st.data(),
    )
    def test_the_state_is_as_if_the_tokens_had_never_come(self, name, prompt, calls, data):
        row = BY_NAME[name]
        model = row.build()
        removed = data.draw(st.integers(0, sum(calls)))
        if prompt + sum(calls) - removed == 0:
            removed -= 1
        ids = row.inputs(time=prompt + sum(calls))
        cache = model(ids[:, :prompt]).past_key_values if prompt else type(model(ids).past_key_values)(model.config)
        cache.activate_past_recording()
        for part in ids[:, prompt:].split(calls, dim=1):
            model(part, past_key_values=cache)
        cache.crop(-removed)
        kept = ids.shape[1] - removed
        assert cache.get_seq_length() == kept
        for actual, expected in zip(states(cache), states(model(ids[:, :kept]).past_key_values), strict=True):
            assert_close(actual, expected)
        more = row.inputs(time=3, seed=1)
        again = model(torch.cat([ids[:, :kept], more], dim=1)).logits[:, kept:]
        assert_close(model(more, past_key_values=cache).logits, again)

    def test_back_to_nothing(self):
        model = ROW.build()
        cache = type(model(ROW.inputs()).past_key_values)(model.config)
        cache.activate_past_recording()
        model(ROW.inputs(time=5), past_key_values=cache)
        cache.crop(-5)
        assert cache.get_seq_length() == 0
        assert torch.equal(model(ROW.inputs(time=4), past_key_values=cache).logits, model(ROW.inputs(time=4)).logits)

    def test_steps_with_and_without_a_new_sequence(self):
        model = ROW.build()
        ids = ROW.inputs(batch=1, time=12)
        cache = model(ids[:, :2]).past_key_values
        cache.activate_past_recording()
        model(ids[:, 2:5], past_key_values=cache)
        packed = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
        model(ids[:, 5:], past_key_values=cache, seq_idx=packed)
        cache.crop(-2)
        assert_close(states(cache)[0], states(model(ids[:, 8:10]).past_key_values)[0])

    def test_further_than_kept_or_without_recording_is_refused(self):
        model = ROW.build()
        cache = model(ROW.inputs(time=9)).past_key_values
        with pytest.raises(RuntimeError, match="call activate_past_recording"):
            cache.crop(-1)
        cache.activate_past_recording()
        model(ROW.inputs(time=4), past_key_values=cache)
        with pytest.raises(ValueError, match=r"crop\(-5\) goes back further than what is kept: .* 4 tokens"):
            cache.crop(-5)
        with pytest.raises(ValueError, match="as a negative number"):
            cache.crop(3)
        cache.crop(0)  # gives up what was recorded
        with pytest.raises(ValueError, match="the inputs of 0 tokens"):
            cache.crop(-1)
        assert cache.get_seq_length() == 13

    def test_a_refused_crop_of_a_hybrid_changes_no_layer(self):
        model = ROW.build(softmax_layers=[0])
        cache = model(ROW.inputs(time=9)).past_key_values
        with pytest.raises(RuntimeError, match="call activate_past_recording"):
            cache.crop(-3)
        cache.activate_past_recording()
        model(ROW.inputs(time=2), past_key_values=cache)
        with pytest.raises(ValueError, match="goes back further"):
            cache.crop(-3)
        assert [layer.get_seq_length() for layer in cache.layers] == [11, 11]

    def test_rows_may_be_reordered_in_between(self):
        model = ROW.build()
        ids = ROW.inputs(batch=3, time=10)
        cache = model(ids[:, :4]).past_key_values
        cache.activate_past_recording()
        model(ids[:, 4:], past_key_values=cache)
        order = torch.tensor([2, 0, 0])
        cache.reorder_cache(order)
        cache.crop(-3)
        for actual, expected in zip(states(cache), states(model(ids[order, :7]).past_key_values), strict=True):
            assert_close(actual, expected)


CONTINUE = """
import sys
import torch, seqzoo
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.tensor([[7, 8, 9]])
cache = model.load_state(sys.argv[2])
print(model(ids, past_key_values=cache).logits.flatten().tolist(), cache.get_seq_length())
"""


class TestFile:
    @pytest.mark.parametrize("name", ["decay", "gated-elu-normalized", "hybrid"])
    def test_another_process_goes_on_bit_equally(self, name, tmp_path):
        model = BY_NAME[name].build()
        model.save_pretrained(tmp_path / "model")
        cache = model(ROW.inputs(batch=1, time=30)).past_key_values
        model.save_state(cache, tmp_path / "read.safetensors")
        result = subprocess.run(
            [sys.executable, "-c", CONTINUE, str(tmp_path / "model"), str(tmp_path / "read.safetensors")],
            capture_output=True,
            text=True,
            check=True,
        )
        logits, length = json.loads("[" + result.stdout.strip().replace("] ", "], ") + "]")
        assert length == 33
        expected = model(torch.tensor([[7, 8, 9]]), past_key_values=cache).logits.flatten()
        assert torch.equal(torch.tensor(logits), expected)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "read.safetensors"]

    @pytest.fixture
    def saved(self, tmp_path):
        model = ROW.build()
        model.save_state(model(ROW.inputs()).past_key_values, tmp_path / "state.safetensors")
        return model, tmp_path / "state.safetensors"

    def test_a_state_of_another_model_is_refused(self, saved):
        _, path = saved
        with pytest.raises(ValueError, match=r"is another model's: its update_rule is decay, this model's is sum"):
            BY_NAME["sum-softmax"].build().load_state(path)
        with pytest.raises(ValueError, match="its n_layer is 2, this model's is 3"):
            ROW.build(n_layer=3).load_state(path)
        with pytest.raises(ValueError, match="its dtype is float32, this model's is bfloat16"):
            ROW.build().to(torch.bfloat16).load_state(path)
        with pytest.raises(ValueError, match=r"its scale is None, this model's is 1\.0"):
            ROW.build(scale=1.0).load_state(path)
        other = ROW.build()
        with torch.no_grad():
            other.transformer.h[1].attn.c_proj.bias[0] += 1e-3
        with pytest.raises(ValueError, match="its weights is"):
            other.load_state(path)

    def test_what_is_no_state_is_refused(self, saved, tmp_path):
        model, path = saved
        with pytest.raises(FileNotFoundError, match="there is no state"):
            model.load_state(tmp_path / "missing.safetensors")
        save_file(load_file(path), tmp_path / "weights.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="not a state that save_state"):
            model.load_state(tmp_path / "weights.safetensors")
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(OSError, match="damaged"):
            model.load_state(path)
        with pytest.raises(ValueError, match="nothing has been read yet"):
            model.save_state(type(model(ROW.inputs()).past_key_values)(model.config), path)
        with pytest.raises(TypeError, match="a dict is no state"):
            model.save_state({}, path)
        cache = model(ROW.inputs()).past_key_values
        with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
            model.save_state(cache, tmp_path / "nowhere" / "state.safetensors")
        with pytest.raises(IsADirectoryError, match="is a folder"):
            model.save_state(cache, tmp_path)

    def test_a_cache_of_another_model_is_not_signed(self, saved, tmp_path):
        model, _ = saved
        for other, words in (
            (ROW.build(n_layer=3), "model of 3 layers"),
            (ROW.build(softmax_layers=[1]), "softmax_layers other"),
            (ROW.build(state_size=5), "has shape"),
        ):
            with pytest.raises(ValueError, match=words):
                model.save_state(other(ROW.inputs()).past_key_values, tmp_path / "other.safetensors")
        assert not list(tmp_path.glob("*other*"))

    def test_an_incomplete_file_is_refused(self, saved):
        model, path = saved
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        tensors = load_file(path)
        save_file({"0.state": tensors["0.state"]}, path, facts)
        with pytest.raises(ValueError, match=r"incomplete \('1.state'\)"):
            model.load_state(path)
        save_file(tensors, path, facts | {"tokens": "x"})
        with pytest.raises(ValueError, match="incomplete"):
            model.load_state(path)

    def test_a_classifier_and_a_language_model_share_a_state(self, saved):
        from transformers import AutoModelForSequenceClassification

        model, path = saved
        classifier = ROW.build(AutoModelForSequenceClassification)
        classifier.transformer.load_state_dict(model.transformer.state_dict())
        assert classifier.load_state(path).get_seq_length() == 24
