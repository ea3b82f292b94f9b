"""Whole runs of a tiny GPT-2: what they compute, what they leave behind, and how they fail."""

import json
import math
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from seqzoo.data.text import load_corpus
from seqzoo.data.text_packing import TokenRow
from seqzoo.trainers.checkpointing import CheckpointError, WriteError
from seqzoo.trainers.language_modeling import CausalLanguageModeling
from seqzoo.trainers.loop import TrainingDiverged, new_accelerator, new_optimizer
from seqzoo.trainers.recipe import RecipeError, load_recipe
from seqzoo.trainers.run import run


def losses(metrics) -> dict[int, float]:
    return dict(metrics["history"]["train"])


def token_row(size: int) -> TokenRow:
    return TokenRow(np.arange(size, dtype=np.int32), np.zeros(size, bool), size)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_leaves_a_model_that_was_trained(sections, tmp_path):
    overrides = ["training.steps=150", "training.lr=1e-2", "data.license=psf-2.0"]
    overrides += ["evaluation.lengths=[16, 32]", "evaluation.every=75"]
    metrics = run(load_recipe(sections, [*overrides, "tracking.tracker=tensorboard"]))
    folder = tmp_path / "run"
    files = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names(folder) == files | {"recipe.yaml", "metrics.json", "logs"}
    assert any("tfevents" in path.name for path in (folder / "logs").iterdir())
    assert (
        load_recipe(folder / "recipe.yaml").as_dict()
        == load_recipe(sections, [*overrides, "tracking.tracker=tensorboard"]).as_dict()
    )
    assert json.loads((folder / "metrics.json").read_text()) == metrics

    evaluation = metrics["evaluation"]
    assert evaluation["bits_per_byte"] < 0.98 * evaluation["unigram"]["bits_per_byte"]
    assert set(evaluation["by_length"]) == {"16", "32"}
    assert evaluation["by_length"]["32"]["loss"] == evaluation["loss"]
    assert evaluation["perplexity"] == math.exp(evaluation["loss"])
    assert metrics["data"]["license"] == "psf-2.0"
    assert metrics["training"]["tokens_seen"] == 150 * 8 * 32
    assert [step for step, _ in metrics["history"]["validation"]] == [75, 150]
    assert [step for step, _ in metrics["history"]["train"]] == list(range(1, 151))

    # The saved model is the one that was measured, by a computation of its own.
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert metrics["parameters"] == model.num_parameters()
    assert model.config.vocab_size == len(tokenizer)
    text = "<|endoftext|>".join(
        [*load_corpus(sections["data"]["source"], validation_fraction=0.2).validation["text"], ""]
    )
    tokens = tokenizer(text)["input_ids"]
    assert len(tokens) == metrics["data"]["validation_tokens"]
    total = 0.0
    for start in range(0, 500, 32):
        window = torch.tensor([tokens[start : min(start + 32, 500) + 1]])
        with torch.no_grad():
            logits = model(window[:, :-1]).logits
        total += nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
    assert evaluation["loss"] == pytest.approx(total / 500, rel=1e-5)
    assert evaluation["bits_per_byte"] == pytest.approx(
        total / 500 / math.log(2) * len(tokens) / metrics["data"]["validation_bytes"], rel=1e-5
    )


def test_accumulation_weighs_targets_not_pieces(sections, tmp_path):
    """With documents kept apart the pieces have different numbers of targets."""
    overrides = ["data.packing=separate", "training.max_grad_norm=null", "model.config.resid_pdrop=0.0"]
    overrides += ["model.config.embd_pdrop=0.0", "model.config.attn_pdrop=0.0"]
    whole = run(load_recipe(sections, overrides))
    overrides += ["training.gradient_accumulation_steps=8", f"training.output_dir={tmp_path / 'pieces'}"]
    pieces = run(load_recipe(sections, overrides))
    assert len(set(losses(whole).values())) == 12
    assert losses(pieces) == pytest.approx(losses(whole), rel=1e-5)


def test_precision_and_checkpointing_change_roundings_only(sections, tmp_path):
    """Three runs in one process, each with an Accelerator of its own."""
    runs = {}
    for override in ("mixed_precision=no", "mixed_precision=bf16", "gradient_checkpointing=true"):
        folder = f"training.output_dir={tmp_path / override}"
        runs[override] = losses(run(load_recipe(sections, [f"training.{override}", folder])))
    plain, half, recomputed = runs.values()
    assert half != plain
    assert half == pytest.approx(plain, rel=1e-2)
    assert recomputed == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("model_type", ["gpt2", "decay_fast_weight_gpt2"])
def test_loss_is_a_sum_over_targets_and_documents_do_not_leak(sections, model_type):
    recipe = load_recipe(sections)
    accelerator = new_accelerator(recipe.training)
    objective = CausalLanguageModeling(accelerator, token_row(9), recipe)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, vocab_size=300, **sections["model"]["config"])
    ).eval()
    ids = torch.randint(0, 300, (1, 12))
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    labels = ids.clone()
    labels[0, [0, 5]] = -100
    batch = {"input_ids": ids, "labels": labels, "position_ids": positions}
    assert objective.count_targets(batch) == 10
    together = objective.loss(model, batch)
    apart = sum(model(part, labels=part).loss * (part.shape[1] - 1) for part in (ids[:, :5], ids[:, 5:]))
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)


def test_weight_decay_spares_biases_norms_and_embeddings(sections):
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=300, n_layer=1, n_embd=32, n_head=2)
    )
    decayed, spared = new_optimizer(model, load_recipe(sections).training).param_groups
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {by_id[id(parameter)] for parameter in decayed["params"]}
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert decayed_names == {
        f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(by_id)


def test_the_best_model_is_kept(sections, tmp_path):
    """The rate rises until it ruins the weights."""
    overrides = ["training.steps=60", "training.lr=2", "training.warmup_steps=60", "training.keep_best=true"]
    overrides += ["training.checkpoint_every=5", "evaluation.every=5", "evaluation.max_tokens=2000"]
    metrics = run(load_recipe(sections, overrides))
    validation = dict(map(tuple, metrics["history"]["validation"]))
    best = metrics["training"]["best_step"]
    assert validation[best] == min(validation.values())
    assert best < 50  # or the test would not show that the last weights are not the best ones
    assert metrics["evaluation"]["loss"] == validation[best]
    assert names(tmp_path / "run" / "checkpoints") == {f"step_{step:08d}" for step in (best, 55, 60)}


def test_continuing_from_a_model_and_learning_rates(sections, tmp_path):
    overrides = ["training.schedule=linear", "training.warmup_steps=3"]
    first = run(load_recipe(sections, overrides))
    overrides = [f"model.init_from={tmp_path / 'run'}", "model.config={}", "tokenizer.vocab_size=null"]
    second = run(load_recipe(sections, [*overrides, "training.lr=1e-9", f"training.output_dir={tmp_path / 'second'}"]))
    assert "base_model" not in second  # a folder of this machine says nothing to others
    assert second["evaluation"]["loss"] == pytest.approx(first["evaluation"]["loss"], rel=1e-4)
    assert second["data"] == first["data"]


def test_a_loss_that_is_no_number_stops_the_run(sections, tmp_path):
    overrides = ["training.lr=1e30", "training.warmup_steps=0", "training.checkpoint_every=1"]
    with pytest.raises(
        TrainingDiverged, match=r"step (\d+): .*The last good checkpoint, step \d+ in .* is kept"
    ) as caught:
        run(load_recipe(sections, overrides))
    step = int(str(caught.value).split()[1].rstrip(":"))
    newest = max(names(tmp_path / "run" / "checkpoints"))
    assert newest == f"step_{step - 1:08d}"
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_full_disk_is_one_error_and_the_run_goes_on_later(sections, tmp_path):
    """The limit on the size of files stands in for the disk: optimizer.bin does not fit, what is smaller does."""
    overrides = ["training.checkpoint_every=5"]
    unbroken = run(load_recipe(sections, [*overrides, f"training.output_dir={tmp_path / 'unbroken'}"]))
    run(load_recipe(sections, overrides))
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000010"
    size = (checkpoint / "optimizer.bin").stat().st_size
    shutil.rmtree(checkpoint)  # as if the run had been killed after step 5
    overrides += ["training.resume=true"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with pytest.raises(WriteError, match=r"checkpoint of step 10 .*Free disk space.*step 5 in .* is kept"):
            run(load_recipe(sections, overrides))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "step_00000010" not in names(tmp_path / "run" / "checkpoints")
    resumed = run(load_recipe(sections, overrides))
    assert losses(resumed) == losses(unbroken)
    assert names(tmp_path / "run" / "checkpoints") == {"step_00000005", "step_00000010"}


def test_folders_that_cannot_be_written(sections, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match=r"cannot write the run to .*file/run.*training\.output_dir"):
        run(load_recipe(sections, [f"training.output_dir={tmp_path / 'file' / 'run'}"]))


def test_folders_that_hold_something(sections, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for option in ("resume", "overwrite"):
        with pytest.raises(FileExistsError, match="mine is not empty and holds no run"):
            run(load_recipe(sections, [f"training.output_dir={tmp_path / 'mine'}", f"training.{option}=true"]))
    overrides = ["training.checkpoint_every=6"]
    first = run(load_recipe(sections, overrides))
    with pytest.raises(FileExistsError, match=r"training\.resume=true"):
        run(load_recipe(sections, overrides))
    for change in ("training.batch_size=4", "training.seed=1", "data.sequence_length=16", "model.config.n_layer=1"):
        key = change.partition("=")[0]
        with pytest.raises(RecipeError, match=f"cannot resume: {key} is"):
            run(load_recipe(sections, [*overrides, "training.resume=true", change]))
    source = Path(sections["data"]["source"])
    text = source.read_text()
    source.write_text(text.replace("class", "klass"))
    with pytest.raises(ValueError, match="the training text is not the one of the checkpoint"):
        run(load_recipe(sections, [*overrides, "training.resume=true"]))
    source.write_text(text)
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000012"
    (checkpoint.parent / "step_foo").mkdir()  # not ours
    state = (checkpoint / "state.json").read_bytes()
    for name, content in (("state.json", state[:50]), ("state.json", b"[]"), ("optimizer.bin", b"")):
        good = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"step_00000012 cannot be read .*remove that folder"):
            run(load_recipe(sections, [*overrides, "training.resume=true"]))
        (checkpoint / name).write_bytes(good)
    (checkpoint / "state.json").write_bytes(state.replace(b'"inputs_seen"', b'"tokens_seen"'))
    with pytest.raises(CheckpointError, match=r"another version of seqzoo .*tokens_seen"):
        run(load_recipe(sections, [*overrides, "training.resume=true"]))
    overrides += ["training.overwrite=true"]
    with pytest.raises(RecipeError, match="positions"):
        run(load_recipe(sections, [*overrides, "data.sequence_length=33"]))
    assert (tmp_path / "run" / "model.safetensors").exists()  # a bad recipe costs nothing
    second = run(load_recipe(sections, [*overrides, "training.seed=1"]))
    assert losses(second) != losses(first)


def test_checkpoints_cannot_run_code(sections, tmp_path):
    overrides = ["training.checkpoint_every=6", "training.resume=true"]
    run(load_recipe(sections, overrides))

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000012"
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        good = (checkpoint / name).read_bytes()
        torch.save(Attack(), checkpoint / name)
        with pytest.raises(CheckpointError, match="cannot be read"):
            run(load_recipe(sections, overrides))
        assert not (tmp_path / "ran").exists()
        (checkpoint / name).write_bytes(good)


def test_a_text_that_is_too_short_leaves_the_earlier_run_alone(sections, tmp_path):
    run(load_recipe(sections, ["training.steps=2"]))
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    short = tmp_path / "short.jsonl"
    short.write_text('{"text": null}\n{"text": "abc"}\n{"text": "de"}\n')
    with pytest.raises(ValueError, match="fewer than one sequence"):
        run(load_recipe(sections, ["training.overwrite=true", f"data.source={short}"]))
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="fewer than one sequence"):
        run(load_recipe(sections, [f"training.output_dir={tmp_path}/new", f"data.source={short}"]))
    assert not (tmp_path / "new").exists()


def test_a_held_out_text_of_one_token_is_refused(sections):
    recipe = load_recipe(sections)
    with pytest.raises(ValueError, match="has 1 tokens"):
        CausalLanguageModeling(new_accelerator(recipe.training), token_row(1), recipe)


def test_a_finished_run_is_not_trained_again(sections):
    run(load_recipe(sections, ["training.steps=2"]))
    with pytest.raises(FileExistsError, match="is finished and left no checkpoint"):
        run(load_recipe(sections, ["training.steps=2", "training.resume=true"]))
