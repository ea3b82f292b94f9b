"""Decaying Fast Weight GPT-2: what the common tests of `test_models.py` do not cover."""

import json

import pytest
import torch
from model_table import MODELS, TINY_GPT2
from safetensors.torch import save_file
from test_models import assert_close
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithFlattening,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from seqzoo.modeling.decay_fast_weight_gpt2.cache_decay_fast_weight_gpt2 import DecayFastWeightCache
from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config
from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel


ROWS = [row for row in MODELS if row.model_type == "decay_fast_weight_gpt2"]
ROW = ROWS[0]


@pytest.fixture
def model():
    return ROW.build()


def gpt2(**overrides) -> GPT2LMHeadModel:
    torch.manual_seed(5)
    return GPT2LMHeadModel(GPT2Config(**(TINY_GPT2 | overrides))).eval()


class TestEquations:
    def test_memory_computes_the_paper(self):
        """One head written out step by step from the equations of the module docstring, in float64."""
        model = ROW.build(n_head=1, n_layer=1).double()
        memory = model.transformer.h[0].attn
        x = torch.randn(1, 7, 32, dtype=torch.float64)
        q, k, v = (x @ memory.c_attn.weight + memory.c_attn.bias)[0].split(32, dim=-1)
        b, a = memory.k_gate(x)[0].sigmoid(), memory.v_gate(x)[0].sigmoid()
        state, outputs = torch.zeros(32, 32, dtype=torch.float64), []
        for t in range(7):
            state = torch.outer(b[t], a[t]) * state + torch.outer(k[t], v[t])
            outputs.append(state.T @ q[t] * 32**-0.5)
        expected = torch.stack(outputs) @ memory.c_proj.weight + memory.c_proj.bias
        assert_close(memory(x)[0], expected, 1e-12)

    def test_gradients_agree_with_float64_finite_differences(self):
        model = ROW.build(n_embd=8, n_head=2, vocab_size=11).double()
        ids = torch.randint(3, 11, (1, 9))

        def loss():  # the library's loss is computed in float32
            return torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])

        loss().backward()
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            direction /= direction.norm()
            losses = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.add_(direction, alpha=step)
                    losses.append(loss())
                    parameter.sub_(direction, alpha=step)
            numeric = (losses[0] - losses[1]) / 2e-5
            analytic = (parameter.grad * direction).sum()
            assert abs(numeric - analytic) <= 1e-6 * abs(analytic) + 1e-9, name

    @pytest.mark.parametrize(("gate_init", "low", "high"), [(2.0, 2.0, 2.0), ("uniform", -2.0, 2.0)])
    def test_gate_initialisation(self, gate_init, low, high):
        config = DecayFastWeightGPT2Config(**TINY_GPT2, gate_init=gate_init)
        memory = AutoModelForCausalLM.from_config(config).transformer.h[0].attn
        assert abs(memory.c_attn.weight.std() - 0.02) < 2e-3
        assert abs(memory.c_proj.weight.std() - 0.01) < 1e-3  # 0.02 / sqrt(2 * n_layer)
        for gate in (memory.k_gate, memory.v_gate):
            assert gate.bias.min() >= low  # logit(1/8) = -1.95
            assert gate.bias.max() <= high
            assert (gate.bias.std() > 0.5) == (gate_init == "uniform")

    def test_parameters_of_gpt2_small(self):
        with torch.device("meta"):
            ours = DecayFastWeightGPT2LMHeadModel(DecayFastWeightGPT2Config())
            theirs = GPT2LMHeadModel(GPT2Config())
        new = 12 * 2 * (768 * 768 + 768)
        assert ours.num_parameters() - theirs.num_parameters() == new


class TestState:
    def test_is_float32_and_of_constant_size(self, model):
        model = model.to(torch.bfloat16)
        cache = model(ROW.inputs(time=3)).past_key_values
        for _ in range(2):
            for layer in cache.layers:
                assert layer.state.dtype == torch.float32
                assert layer.state.shape == (2, 4, 8, 8)
            cache = model(ROW.inputs(time=50), past_key_values=cache).past_key_values

    def test_beams_reorder_it(self, model):
        cache = model(ROW.inputs(batch=3)).past_key_values
        states = [layer.state.clone() for layer in cache.layers]
        cache.reorder_cache(torch.tensor([2, 0, 0]))
        for layer, state in zip(cache.layers, states, strict=True):
            assert torch.equal(layer.state, state[[2, 0, 0]])

    def test_repeats_selects_and_resets(self, model):
        cache = model(ROW.inputs()).past_key_values
        state = cache.layers[1].state.clone()
        cache.batch_repeat_interleave(2)
        assert torch.equal(cache.layers[1].state, state[[0, 0, 1, 1]])
        cache.batch_select_indices(torch.tensor([3]))
        assert torch.equal(cache.layers[1].state, state[[1]])
        cache.reset()
        assert cache.get_seq_length() == 0
        assert not cache.layers[1].state.any()

    def test_gradient_flows_through_a_carried_state(self, model):
        model.train()
        ids = ROW.inputs()
        cache = model(ids).past_key_values
        model(ids, past_key_values=cache, labels=ids).loss.backward()
        assert model.transformer.h[0].attn.k_gate.weight.grad.abs().sum() > 0

    def test_of_another_kind_or_shape_is_refused(self, model):
        ids = ROW.inputs()
        with pytest.raises(TypeError, match="DynamicCache; this model needs a DecayFastWeightCache"):
            model(ids, past_key_values=DynamicCache())
        cache = model(ids).past_key_values
        with pytest.raises(ValueError, match=r"shape \[2, 4, 8, 8\].*\[3, 4, 8, 8\]"):
            model(ROW.inputs(batch=3), past_key_values=cache)
        with pytest.raises(ValueError, match="model of 3 layers, this one has 2"):
            model(ids, past_key_values=DecayFastWeightCache(DecayFastWeightGPT2Config(**TINY_GPT2 | {"n_layer": 3})))
        hybrid = ROW.build(softmax_layers=[1])
        with pytest.raises(ValueError, match=r"softmax_layers other than \[1\]"):
            hybrid(ids, past_key_values=cache)
        with pytest.raises(ValueError, match=r"softmax_layers other than \[\]"):
            model(ids, past_key_values=hybrid(ids).past_key_values)

    def test_continuous_batching_is_refused(self, model):
        with pytest.raises(ValueError, match="continuous batching"):
            model.generate_batch([[5, 6, 7]], max_new_tokens=2)


class TestPositions:
    def test_learned_refuses_what_is_beyond(self, model):
        with pytest.raises(ValueError, match=r"position 128 is beyond the 128.*'learned_clamped'.*'none'"):
            model(ROW.inputs(time=129))
        cache = model(ROW.inputs(time=128)).past_key_values
        with pytest.raises(ValueError, match="position 128"):
            model(ROW.inputs(time=1), past_key_values=cache)
        with pytest.raises(ValueError, match="position 500"):
            model(ROW.inputs(time=1), position_ids=torch.full((2, 1), 500))

    def test_padding_does_not_count(self, model):
        ids = ROW.inputs(time=140)
        mask = torch.ones_like(ids)
        mask[:, :12] = 0
        assert_close(model(ids, attention_mask=mask).logits[:, 12:], model(ids[:, 12:]).logits)

    def test_clamped_equals_learned_within_and_repeats_the_last_row_beyond(self, model):
        clamped = ROW.build(position_embedding_type="learned_clamped")
        ids = ROW.inputs(time=140)
        assert torch.equal(clamped(ids[:, :128]).logits, model(ids[:, :128]).logits)
        explicit = torch.arange(140).clamp(max=127)[None]
        unpacked = torch.ones_like(ids)  # with a mask, positions are no sign of packing
        assert torch.equal(clamped(ids).logits, clamped(ids, position_ids=explicit, attention_mask=unpacked).logits)

    @pytest.mark.parametrize("kind", ["learned_clamped", "none"])
    def test_a_converted_model_generates_16384_tokens(self, kind):
        teacher = gpt2(n_embd=8, n_head=2, n_layer=1, n_positions=1024)
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(teacher, position_embedding_type=kind)
        prompt = torch.tensor([[5]])
        output = model.generate(
            prompt, attention_mask=prompt > 0, max_new_tokens=16_384, min_new_tokens=16_384, do_sample=False
        )
        assert output.shape == (1, 16_385)
        logits = model(output[:, :-1], logits_to_keep=1).logits[:, -1]
        logits[:, 1] = -torch.inf  # the end of text was not allowed
        assert logits.argmax() == output[0, -1]


class TestPacking:
    LENGTHS = (5, 1, 9, 70)

    @pytest.fixture
    def sequences(self):
        return [ROW.inputs(batch=1, time=n, seed=n)[0].tolist() for n in self.LENGTHS]

    @pytest.mark.parametrize(
        "keep",
        [{"position_ids"}, {"seq_idx"}, {"cu_seq_lens_q"}, {"position_ids", "seq_idx", "cu_seq_lens_q"}],
        ids=str,
    )
    @pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
    def test_no_leak_over_boundaries(self, sequences, keep, row):
        model = row.build()
        collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
        batch = collate([{"input_ids": ids} for ids in sequences], return_tensors="pt")
        packed = model(batch["input_ids"], **{name: batch[name] for name in keep}).logits[0]
        for logits, ids in zip(packed.split(self.LENGTHS), sequences, strict=True):
            assert_close(logits, model(torch.tensor([ids])).logits[0])

    def test_gradients_stay_within(self, model, sequences):
        collate = DataCollatorWithFlattening()
        batch = collate([{"input_ids": ids} for ids in sequences], return_tensors="pt")
        embeds = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
        model(inputs_embeds=embeds, position_ids=batch["position_ids"]).logits[0, 10:].square().sum().backward()
        assert not embeds.grad[0, :6].any()
        assert embeds.grad[0, 6:].abs().sum(-1).all()

    @pytest.mark.parametrize("keep", ["seq_idx", "cu_seq_lens_q"])
    def test_a_mask_of_ones_beside_it_changes_nothing(self, model, sequences, keep):
        collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
        batch = collate([{"input_ids": ids} for ids in sequences], return_tensors="pt")
        ids, mask = batch["input_ids"], torch.ones_like(batch["input_ids"])
        assert torch.equal(
            model(ids, **{keep: batch[keep]}).logits, model(ids, attention_mask=mask, **{keep: batch[keep]}).logits
        )

    def test_a_sequence_that_begins_with_padding_counts_from_its_first_token(self, model):
        ids = ROW.inputs(batch=1, time=20)
        mask = torch.ones_like(ids)
        mask[0, 9:12] = 0
        packed = torch.tensor([[0] * 9 + [1] * 11])
        logits = model(ids, attention_mask=mask, seq_idx=packed).logits
        assert_close(logits[:, 12:], model(ids[:, 12:]).logits)
        assert_close(logits[:, :9], model(ids[:, :9]).logits)

    def test_boundaries_that_do_not_fit_are_refused(self, model):
        with pytest.raises(ValueError, match="one packed row, the batch has 2"):
            model(ROW.inputs(), cu_seq_lens_q=torch.tensor([0, 3, 24]))
        for edges in ([3, 24], [0, 3, 20], [0, 5, 999], [0, 9, 3, 24]):
            with pytest.raises(ValueError, match="must rise from 0 to the length of the row, 24"):
                model(ROW.inputs(batch=1), cu_seq_lens_q=torch.tensor(edges))
        with pytest.raises(ValueError, match=r"seq_idx has shape \[1, 5\]"):
            model(ROW.inputs(batch=1), seq_idx=torch.zeros(1, 5))


class TestConversion:
    @pytest.mark.parametrize(
        "overrides",
        [{}, {"position_embedding_type": "none"}, {"gate_rank": 2, "gate_sides": "key"}, {"state_size": 5}],
        ids=str,
    )
    def test_shared_weights_are_bit_equal_and_the_others_are_listed(self, overrides):
        teacher = gpt2()
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(teacher, **overrides)
        theirs, ours = teacher.state_dict(), model.state_dict()
        for name in ours:
            if name in theirs and ours[name].shape == theirs[name].shape:
                assert torch.equal(ours[name], theirs[name]), name
            else:
                assert any(entry.split()[0] == name for entry in model.new_parameters), name
        listed = {entry.split()[0] for entry in model.new_parameters}
        partly = {name for name in ours if "c_attn" in name} if "state_size" in overrides else set()
        assert listed == {name for name in ours if "gate" in name} | partly
        for name in partly:
            assert torch.equal(ours[name][..., -32:], theirs[name][..., -32:])
        assert set(theirs) - set(ours) == ({"transformer.wpe.weight"} if "none" in overrides.values() else set())

    def test_all_around_the_memory_is_still_gpt2(self):
        """With the outputs of attention and memory projected to nothing, both models are the same function."""
        teacher = gpt2()
        for block in teacher.transformer.h:
            torch.nn.init.zeros_(block.attn.c_proj.weight)
        ids = ROW.inputs()
        assert_close(DecayFastWeightGPT2LMHeadModel.from_gpt2(teacher)(ids).logits, teacher(ids).logits)

    def test_from_a_folder_keeps_tokens_and_generation_settings(self, tmp_path):
        teacher = gpt2()
        teacher.generation_config.repetition_penalty = 1.5
        teacher.save_pretrained(tmp_path)
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(tmp_path, gate_init=4.0)
        assert model.config.gate_init == 4.0
        assert (model.config.eos_token_id, model.config.pad_token_id) == (1, 2)
        assert model.generation_config.repetition_penalty == 1.5
        assert not model.training

    def test_into_another_dtype(self, tmp_path):
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(gpt2(), dtype=torch.bfloat16)
        model.save_pretrained(tmp_path)
        assert model.dtype == AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16

    def test_the_unscaled_variant_stays_unscaled(self):
        assert DecayFastWeightGPT2LMHeadModel.from_gpt2(gpt2(scale_attn_weights=False)).config.scale == 1.0

    def test_other_checkpoints_are_refused_by_name(self, tmp_path):
        llama = LlamaForCausalLM(
            LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        )
        with pytest.raises(ValueError, match="this one is 'llama'"):
            DecayFastWeightGPT2LMHeadModel.from_gpt2(llama)
        llama.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="this one is 'llama'"):
            DecayFastWeightGPT2LMHeadModel.from_gpt2(tmp_path)
        with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx=True cannot be converted"):
            DecayFastWeightGPT2LMHeadModel.from_gpt2(gpt2(scale_attn_by_inverse_layer_idx=True))
        with pytest.raises(ValueError, match="no language-model head"):
            DecayFastWeightGPT2LMHeadModel.from_gpt2(gpt2().transformer)
        with pytest.raises(ValueError, match=r"gate_bias is not a field .* did you mean gate_"):
            DecayFastWeightGPT2LMHeadModel.from_gpt2(gpt2(), gate_bias=2)
        with pytest.raises(ValueError, match="n_layer=3 differs from the checkpoint's 2"):
            DecayFastWeightGPT2LMHeadModel.from_gpt2(gpt2(), n_layer=3)
        with pytest.raises(ValueError, match="tie_word_embeddings=True differs from the checkpoint's False"):
            DecayFastWeightGPT2LMHeadModel.from_gpt2(gpt2(tie_word_embeddings=False), tie_word_embeddings=True)

    def test_a_checkpoint_that_lacks_weights_is_refused(self, tmp_path):
        teacher = gpt2()
        weights = {name: weight for name, weight in teacher.state_dict().items() if name != "lm_head.weight"}
        del weights["transformer.h.1.mlp.c_fc.weight"]
        teacher.save_pretrained(tmp_path)
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks transformer\.h\.1\.mlp\.c_fc\.weight"):
            DecayFastWeightGPT2LMHeadModel.from_gpt2(tmp_path)

    def test_untied_embeddings_stay_apart(self):
        teacher = gpt2(tie_word_embeddings=False)
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(teacher)
        assert torch.equal(model.lm_head.weight, teacher.lm_head.weight)
        assert torch.equal(model.transformer.wte.weight, teacher.transformer.wte.weight)


class TestClassification:
    def test_head_reads_the_last_real_token(self):
        model = ROW.build(AutoModelForSequenceClassification, num_labels=3)
        ids = ROW.inputs()
        mask = torch.ones_like(ids)
        mask[1, 15:] = 0
        logits = model(ids, attention_mask=mask).logits
        assert logits.shape == (2, 3)
        assert_close(logits[1:], model(ids[1:, :15]).logits)
        padded = ids.masked_fill(mask == 0, model.config.pad_token_id)
        assert_close(model(padded).logits[1:], logits[1:])
        assert model(ids, attention_mask=mask, labels=torch.tensor([0, 2])).loss.isfinite()

    def test_a_batch_needs_to_know_its_padding(self):
        model = ROW.build(AutoModelForSequenceClassification, pad_token_id=None)
        with pytest.raises(ValueError, match="needs an attention_mask"):
            model(ROW.inputs())


class TestBadInput:
    def test_token_ids(self, model):
        with pytest.raises(ValueError, match="token id 99 is outside the vocabulary of 99"):
            model(torch.tensor([[4, 99]]))
        with pytest.raises(ValueError, match="token id -1"):
            model(torch.tensor([[4, -1]]))

    def test_empty_prompt(self, model):
        with pytest.raises(ValueError, match="input is empty"):
            model(torch.empty(1, 0, dtype=torch.long))
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model()

    def test_mask_of_another_length(self, model):
        with pytest.raises(ValueError, match=r"shape \[2, 20\]; expected .* \[2, 24\]"):
            model(ROW.inputs(), attention_mask=torch.ones(2, 20))

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ({"update_rule": "hebb"}, "update_rule='hebb' is not supported; choose from decay, gated, delta, sum"),
            ({"feature_map": "tanh"}, "feature_map='tanh' is not supported; choose from identity, elu"),
            ({"normalize": True}, "weights q k\\^T that are not negative.*Choose elu"),
            ({"normalize": True, "feature_map": "elu"}, "gate_sides='both'.*Set gate_sides='key'"),
            ({"normalize": True, "feature_map": "elu", "update_rule": "delta"}, "no weighted sum"),
            ({"normalize": True, "feature_map": "elu", "update_rule": "sum", "scale": 2.0}, "scale=2.0 has no effect"),
            (
                {"update_rule": "sum", "gate_init": 1.0},
                "gate_init=1.0 means nothing to update_rule='sum'.*leave it",
            ),
            ({"update_rule": "gated", "gate_sides": "key"}, "gate_sides='key' means nothing to update_rule='gated'"),
            ({"update_rule": "delta", "gate_rank": 2}, "gate_rank=2 means nothing to update_rule='delta'"),
            ({"read_before_write": True}, "read_before_write=True means nothing to update_rule='decay'.*delta"),
            ({"update_rule": "gated", "gate_init": "uniform"}, "gate_init='uniform' spreads the channels"),
            ({"feature_map": "dpfp", "state_size": 20}, "state_size=20: dpfp makes 2 \\* head_dim = 16 features"),
            ({"feature_map": "hedgehog", "state_size": 5}, "state_size=5: hedgehog makes features in pairs"),
            ({"softmax_layers": [2]}, "different layers from 0 to n_layer - 1 = 1"),
            ({"softmax_layers": [1, 1]}, "different layers"),
            ({"softmax_layers": [0, 1]}, "names every layer: that is GPT-2 itself"),
            ({"gate_sides": "none"}, "choose from both, key, value"),
            ({"position_embedding_type": "rotary"}, "choose from learned, learned_clamped, none"),
            ({"gate_init": "ones"}, "a finite number or 'uniform'"),
            ({"gate_init": float("nan")}, "gate_init=nan"),
            ({"scale": float("inf")}, "scale=inf"),
            ({"n_head": 5}, "n_embd=32 must be a multiple of n_head=5"),
            ({"n_layer": 0}, "n_layer=0 must be at least 1"),
            ({"state_size": -2}, "state_size=-2"),
            ({"config_version": 3}, "newer release.*Upgrade seqzoo"),
        ],
        ids=str,
    )
    def test_config(self, field, message):
        with pytest.raises(ValueError, match=message):
            DecayFastWeightGPT2Config(**TINY_GPT2 | field)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"update_rule": "bogus"}, "update_rule='bogus'"),
            ({"softmax_layers": [7]}, "different layers"),
            ({"update_rule": "delta"}, "gate_sides='both' means nothing to update_rule='delta'"),
            ({"normalize": True}, "not negative"),
        ],
        ids=str,
    )
    def test_fields_that_are_set_later(self, model, tmp_path, fields, message):
        """`from_pretrained` sets its keyword arguments after the config was made."""
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=message):
            AutoModelForCausalLM.from_pretrained(tmp_path, **fields)
        config = AutoConfig.from_pretrained(tmp_path)
        for name, value in fields.items():
            setattr(config, name, value)
        with pytest.raises(ValueError, match=message):
            AutoModelForCausalLM.from_config(config)

    def test_activation(self):
        with pytest.raises(ValueError, match="activation_function='foo' is unknown"):
            ROW.build(activation_function="foo")

    def test_a_newer_config_file(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"config_version": 3}))
        with pytest.raises(ValueError, match="newer release"):
            AutoModelForCausalLM.from_pretrained(tmp_path)

    @pytest.mark.parametrize("damage", ["truncated", "header", "empty", "missing"])
    def test_damaged_weights(self, model, tmp_path, damage):
        model.save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(
            {"truncated": content[:-100], "header": b"\xff" * 64 + content[64:], "empty": b"", "missing": b""}[damage]
        )
        if damage == "missing":
            weights.unlink()
        with pytest.raises(OSError, match=str(tmp_path)):
            AutoModelForCausalLM.from_pretrained(tmp_path)

    def test_pickled_weights(self, model, tmp_path):
        AutoConfig.for_model(ROW.model_type, **TINY_GPT2).save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(OSError, match="safetensors"):
            AutoModelForCausalLM.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match="safetensors only"):
            AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=False)


def test_torch_compile_gives_the_same_logits_and_gradients():
    ids = ROW.inputs()
    results = []
    for compiled in (False, True):
        model = ROW.build()
        forward = torch.compile(model) if compiled else model
        output = forward(ids, labels=ids)
        output.loss.backward()
        results.append((output.logits.detach(), model.transformer.h[0].attn.k_gate.weight.grad))
    for plain, compiled in zip(*results, strict=True):
        assert_close(compiled, plain)
