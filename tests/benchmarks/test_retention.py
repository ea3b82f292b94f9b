"""What a converted GPT-2 keeps: all stages at a tiny size, stopped and not, and the budgets of the recipes."""

import json
import lzma
import shutil
from dataclasses import asdict
from pydoc_data.topics import topics

import pytest
import torch

from seqzoo.__main__ import main
from seqzoo.benchmarks import retention
from seqzoo.benchmarks.retention import CONTINUED, RECIPES, STAGES, STUDENT, TEACHER, run, stage_recipe, to_markdown
from seqzoo.trainers.loop import TrainingStopped
from seqzoo.trainers.recipe import RecipeError


SMALL = ["data.sequence_length=16", "training.mixed_precision=no", "evaluation.lengths=[]"]
SMALL += ["evaluation.every=2", "evaluation.max_tokens=300"]
FINE_TUNING = [*SMALL, "training.steps=2", "training.batch_size=2", "training.warmup_steps=0"]
TEACHING = [*SMALL, "training.steps=4", "training.batch_size=4", "training.warmup_steps=0", "tokenizer.vocab_size=260"]
TEACHING += ["model.config={n_positions: 16, n_embd: 16, n_layer: 1, n_head: 2}"]
TINY = {TEACHER: TEACHING, CONTINUED: FINE_TUNING, STUDENT: FINE_TUNING}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    names = sorted(topics)
    for part, some in (("train", names[:8]), ("valid", names[8:10]), ("test", names[10:12])):
        lines = "".join(json.dumps({"text": topics[name][:1000]}) + "\n" for name in some)
        (folder / f"{part}.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    return folder


def tiny(text, folder, **options):
    return run(lambda line: None, text=text, folder=folder, overrides=TINY, needs_gpu=False, **options)


@pytest.fixture(scope="module")
def measured(text, tmp_path_factory):
    """(work folder, result) of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("retention")
    return folder, tiny(text, folder, minutes=60)


def numbers(result):
    """All that does not depend on the time that it took."""
    kept = json.loads(json.dumps(result))
    for stage in kept["stages"].values():
        for key in ("seconds", "tokens_per_second"):
            del stage["training"][key]
    return kept


def test_all_stages_and_the_shares(measured):
    _, result = measured
    stages = result["stages"]
    assert tuple(stages) == STAGES
    assert stages[TEACHER]["parameters"] == stages[CONTINUED]["parameters"] < stages[STUDENT]["parameters"]
    assert stages[CONTINUED]["training"]["tokens_seen"] == stages[STUDENT]["training"]["tokens_seen"] == 2 * 2 * 16
    for teacher in (TEACHER, CONTINUED):
        for part in ("validation", "test"):
            share = stages[teacher][part]["perplexity"] / stages[STUDENT][part]["perplexity"]
            assert result["share_kept"][teacher][part] == share
    assert stages[TEACHER]["test"]["perplexity"] != stages[TEACHER]["validation"]["perplexity"]
    (continued,) = [entry for entry in result["bars"] if "teacher continued" in entry["what"]]
    assert continued["measured"] == 100 * result["share_kept"][CONTINUED]["test"]
    assert continued["bar"] == ">= 99"
    shown = to_markdown(result)
    for entry in stages.values():
        assert f"{entry['test']['perplexity']:.3f} | {entry['validation']['perplexity']:.3f} |" in shown


def test_stopped_again_and_again_it_gives_the_same(measured, text, tmp_path):
    reasons = []
    for _ in range(20):
        try:
            result = tiny(text, tmp_path, minutes=0)
            break
        except TrainingStopped as stopped:
            reasons.append(str(stopped))
    # A step a call; behind the last one of a stage another stage is not begun.
    steps = [f"gpt2/english stopped after step {step} of 4" for step in (1, 2, 3)]
    steps += ["gpt2/english_continued comes next", "gpt2/english_continued stopped after step 1 of 2"]
    steps += ["decay_fast_weight_gpt2/english comes next", "decay_fast_weight_gpt2/english stopped after step 1 of 2"]
    assert [reason[: len(step)] for reason, step in zip(reasons, steps, strict=True)] == steps
    assert numbers(result) == numbers(measured[1])


def test_what_is_finished_is_not_done_again(measured, text, monkeypatch):
    monkeypatch.setattr("seqzoo.trainers.run.run", None)
    told = []
    again = run(told.append, text=text, folder=measured[0], minutes=0, overrides=TINY, needs_gpu=False)
    assert again == measured[1]
    assert told == ["the test text"]
    changed = TINY | {STUDENT: [*FINE_TUNING, "training.lr=1"]}
    with pytest.raises(RecipeError, match=r"finished, but with another training\.lr; remove it to do it again"):
        run(text=text, folder=measured[0], overrides=changed, needs_gpu=False)


def test_another_teacher_has_other_students(measured, text, tmp_path):
    folder = tmp_path / "retention"
    shutil.copytree(measured[0], folder)
    shutil.rmtree(folder / TEACHER)
    with pytest.raises(TrainingStopped):
        tiny(text, folder, minutes=0)
    assert [path.name for path in folder.iterdir()] == [TEACHER]


def test_stages_of_different_texts_are_not_compared(measured, text):
    metrics = measured[0] / STUDENT / "metrics.json"
    before = metrics.read_text()
    sha256 = json.loads(before)["data"]["sha256"]
    try:
        metrics.write_text(before.replace(sha256, "0" * 64))
        with pytest.raises(ValueError, match=r"have read different texts under one name; remove it"):
            tiny(text, measured[0])
    finally:
        metrics.write_text(before)


def test_the_recipes_compare_fairly(tmp_path):
    teacher, continued, student = (stage_recipe(stage, tmp_path, tmp_path) for stage in STAGES)
    same = [asdict(recipe.training) | {"output_dir": None} for recipe in (continued, student)]
    assert same[0] == same[1]
    assert continued.data == student.data == teacher.data
    tokens = [recipe.training.steps * recipe.training.batch_size for recipe in (teacher, student)]
    assert tokens[0] == 10 * tokens[1]
    assert continued.model.init_from == student.model.convert_gpt2 == teacher.training.output_dir
    for recipe in (teacher, continued, student):
        assert recipe.training.checkpoint_every
        assert recipe.training.keep_best


def test_what_is_missing_is_named(text, tmp_path):
    for path in text.glob("*.xz"):
        shutil.copy(path, tmp_path)
    (tmp_path / "valid.jsonl.xz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*valid\.jsonl\.xz; put .*the key `text`.*data\.source"):
        tiny(tmp_path, tmp_path)


def test_a_damaged_test_text_is_found_before_training(text, tmp_path):
    for path in text.glob("*.xz"):
        shutil.copy(path, tmp_path)
    (tmp_path / "test.jsonl.xz").write_bytes(lzma.compress(b'{"content": "another key"}\n'))
    with pytest.raises(ValueError, match=r"line 1 of test\.jsonl is no JSON object with the key 'text'"):
        tiny(tmp_path, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused():
    with pytest.raises(ValueError, match="needs a GPU, and torch sees none"):
        run()


def test_the_command_says_that_it_goes_on_and_keeps_earlier_results(measured, monkeypatch, tmp_path, capsys):
    command = ["bench", "retention", "--out", str(tmp_path)]
    monkeypatch.setattr(retention, "run", lambda progress: measured[1])
    assert main(command) == 0
    written = (tmp_path / "RESULTS.md").read_text()
    assert to_markdown(measured[1]) in written

    def stop(progress):
        raise TrainingStopped("stopped after step 7")

    monkeypatch.setattr(retention, "run", stop)
    capsys.readouterr()
    assert main(command) == 75
    assert capsys.readouterr().err.endswith("not finished, run it again to go on: retention: stopped after step 7\n")
    assert (tmp_path / "RESULTS.md").read_text() == written
    assert set(RECIPES) == set(measured[1]["stages"])
