"""The helper that gives any module's branches residual weights."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from seqzoo.modeling.rezero.branches_rezero import reset_residual_weights, rezero


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.branch = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        return x + self.branch(self.norm(x))


def network(depth=3):
    return nn.Sequential(*(Block() for _ in range(depth)))


def tiny_gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def test_branches_are_scaled_and_norms_are_gone():
    plain = network()
    model = rezero(copy.deepcopy(plain), ["*.branch"], ["*.norm"])
    x = torch.randn(5, 8)
    assert torch.equal(model(x), x)
    expected = x
    for i, (block, old) in enumerate(zip(model, plain, strict=True)):
        with torch.no_grad():
            block.branch.resweight.fill_(0.5 + i)
        expected = expected + (0.5 + i) * old.branch(expected)
    torch.testing.assert_close(model(x), expected)
    new = set(model.state_dict()) - set(plain.state_dict())
    assert new == {f"{i}.branch.resweight" for i in range(3)}


def test_alpha_learns_first_and_the_branches_follow():
    model = rezero(network(), ["*.branch"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(5, 8)
    for step in range(2):
        optimizer.zero_grad()
        (model(x) * torch.randn(8)).sum().backward()
        for name, parameter in model.named_parameters():
            assert bool(parameter.grad.any()) == (step == 1 or name.endswith("resweight")), name
        optimizer.step()


def test_a_library_model_with_tuples_starts_as_the_identity_and_keeps_its_weights():
    plain = tiny_gpt2().eval()
    model = rezero(copy.deepcopy(plain), ["transformer.h.*.attn", "transformer.h.*.mlp"], ["*.ln_1", "*.ln_2"])
    ids = torch.randint(0, 50, (2, 7))
    states = model(ids, output_hidden_states=True).hidden_states
    assert torch.equal(states[1], states[0])
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert sorted(missing) == [f"transformer.h.{i}.{name}.resweight" for i in range(2) for name in ("attn", "mlp")]
    assert all("ln_1" in name or "ln_2" in name for name in unexpected)
    kept = rezero(copy.deepcopy(plain), ["transformer.h.*.attn", "transformer.h.*.mlp"])
    with torch.no_grad():
        for name, parameter in kept.named_parameters():
            if name.endswith("resweight"):
                parameter.fill_(1.0)
    torch.testing.assert_close(kept(ids).logits, plain(ids).logits)
    generated = kept.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(generated, plain.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0))


def test_copies_pickles_and_compiled_models_keep_alpha():
    model = rezero(network(), ["*.branch"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    x = torch.randn(5, 8)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), expected)


def test_weights_are_saved_and_loaded_as_the_readme_says(tmp_path):
    names = ["transformer.h.*.attn", "transformer.h.*.mlp"], ["*.ln_1", "*.ln_2"]
    model, again = rezero(tiny_gpt2(), *names).eval(), rezero(tiny_gpt2(), *names).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    save_model(model, tmp_path / "model.safetensors")
    load_model(again, tmp_path / "model.safetensors")
    ids = torch.randint(0, 50, (2, 7))
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_under_autocast_alpha_and_the_stream_stay_in_float32():
    model = rezero(network(), ["*.branch"], ["*.norm"])
    with torch.no_grad():
        for block in model:
            block.branch.resweight.fill_(0.5)
    x = torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert output.dtype == torch.float32
    assert model[0].branch.resweight.dtype == torch.float32
    torch.testing.assert_close(output, model(x), rtol=0.05, atol=0.05)
    with torch.device("meta"):
        lowered = rezero(network().to(torch.bfloat16), ["*.branch"])
    assert lowered[0].branch.resweight.dtype == torch.float32
    assert lowered[0].branch.resweight.device.type == "meta"


def test_a_model_of_half_precision_keeps_its_type():
    model = rezero(network().to(torch.bfloat16), ["*.branch"])
    assert model[0].branch.resweight.dtype == torch.float32
    assert model(torch.randn(5, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_modules_with_several_names_are_changed_under_all_of_them():
    model = network(2)
    model[1].norm, model[1].branch = model[0].norm, model[0].branch
    rezero(model, ["*.branch"], ["*.norm"])
    assert all(type(block.norm) is nn.Identity for block in model)
    assert model[0].branch.resweight is model[1].branch.resweight
    assert len(model[0].branch._forward_hooks) == 1


def test_residual_weights_are_reset_after_an_initialisation_of_everything():
    model = rezero(network(), ["*.branch"])
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    kept = model[0].branch[0].weight.clone()
    reset_residual_weights(model)
    assert not any(block.branch.resweight.any() for block in model)
    assert torch.equal(model[0].branch[0].weight, kept)


def test_the_initialisation_of_a_library_model_leaves_alpha_alone():
    model = rezero(tiny_gpt2(), ["transformer.h.*.attn"])
    model.init_weights()
    assert not any(parameter.any() for name, parameter in model.named_parameters() if name.endswith("resweight"))


@pytest.mark.parametrize(
    ("branches", "norms", "message"),
    [
        (["*.brunch"], [], r"Sequential has no submodule '\*\.brunch'; some of its names: 0, 0\.norm"),
        (["*.branch"], ["norm"], "no submodule 'norm'"),
        (["0", "0.branch"], [], r"0\.branch lies within 0"),
        ("0.branch", [], "are lists of names, not '0.branch' alone"),
        (["0.branch.2"], ["*.branch"], r"the branch 0\.branch\.2 would go with the norm 0\.branch"),
    ],
)
def test_wrong_names_are_refused_and_nothing_changes(branches, norms, message):
    model = network()
    names = set(model.state_dict())
    with pytest.raises(ValueError, match=message):
        rezero(model, branches, norms)
    assert set(model.state_dict()) == names
    assert torch.isfinite(F.relu(model(torch.randn(2, 8)))).all()


def test_what_a_branch_may_not_return_is_named():
    model = rezero(tiny_gpt2(), ["transformer"])
    with pytest.raises(TypeError, match=r"a branch \(GPT2Model\) returned a BaseModelOutput"):
        model(torch.tensor([[1, 2]]))


def test_norms_of_torchs_own_layers_are_refused():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 1, enable_nested_tensor=False)
    with pytest.raises(ValueError, match=r"the norm layers\.0\.norm1 in evaluation: use RZTXEncoderLayer"):
        rezero(model, ["layers.*.self_attn", "layers.*.linear2"], ["layers.*.norm*"])


def test_a_branch_is_not_wrapped_twice():
    model = rezero(network(), ["0.branch"])
    with pytest.raises(ValueError, match=r"0\.branch has a residual weight already"):
        rezero(model, ["*.branch"])
    assert not hasattr(model[1].branch, "resweight")
