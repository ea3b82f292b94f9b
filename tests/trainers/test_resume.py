"""A run killed with SIGKILL goes on as if it had never stopped: equal losses, bit by bit."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import yaml

from seqzoo.data.text_packing import PackedBatches
from seqzoo.trainers.checkpointing import replacing_files
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import main, run
from seqzoo.trainers.run_folder import locked


# The trainer's own command, but the process kills itself at a given call: no step of it can clean up.
_COMMAND = """
import os, signal, sys
import torch
from seqzoo.data.text_packing import PackedBatches
from seqzoo.data.text_stream import PackedStream
from seqzoo.trainers import checkpointing
from seqzoo.trainers.run import main

where, count = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)

def kill_at_call(function):
    def counting(*args, **kwargs):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return counting

if where == "batch":
    for batches in (PackedBatches, PackedStream):
        batches.__next__ = kill_at_call(batches.__next__)
else:
    checkpointing.os.rename = kill_at_call(os.rename)
sys.exit(main(sys.argv[3:]))
"""


def killed(where: str, count: int, *arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", _COMMAND, where, str(count), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


def test_killed_in_the_second_epoch_and_while_writing(sections, tmp_path):
    sections["training"] |= {"steps": 60, "checkpoint_every": 8, "gradient_accumulation_steps": 2}
    sections["data"]["packing"] = "separate"
    sections["evaluation"]["every"] = 20
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    unbroken = run(load_recipe(file, [f"training.output_dir={tmp_path / 'unbroken'}"]))
    steps_of_an_epoch = unbroken["data"]["train_tokens"] / 32 / 8
    assert 17 < steps_of_an_epoch < 30

    checkpoints = tmp_path / "run" / "checkpoints"
    killed("batch", 37, str(file))  # step 37, in the middle of epoch 2
    assert {path.name for path in checkpoints.iterdir()} == {"step_00000024", "step_00000032"}
    assert json.loads((checkpoints / "step_00000032" / "state.json").read_text())["batches"]["epoch"] == 1
    killed("rename", 2, str(file), "training.resume=true")  # step 40 is written, step 48 is not finished
    assert {path.name for path in checkpoints.iterdir()} == {
        "step_00000032",
        "step_00000040",
        "step_00000048.unfinished",
    }
    resumed = run(load_recipe(file, ["training.resume=true"]))
    assert {path.name for path in checkpoints.iterdir()} == {"step_00000048", "step_00000056"}
    for key in ("history", "evaluation", "data", "parameters"):
        assert resumed[key] == unbroken[key], key
    assert [step for step, _ in resumed["history"]["train"]] == list(range(1, 61))
    assert len({loss for _, loss in resumed["history"]["train"]}) == 60
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "unbroken")]
    assert weights[0] == weights[1]


def test_a_stream_killed_in_the_second_epoch(sections, tmp_path):
    sections["training"] |= {"steps": 50, "checkpoint_every": 10}
    # Six blocks an epoch; what is held out matters nothing here.
    sections["data"] |= {"streaming": True, "validation": sections["data"]["source"], "shuffle_buffer": 40}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    unbroken = run(load_recipe(file, [f"training.output_dir={tmp_path / 'unbroken'}"]))
    killed("batch", 47, str(file))
    state = json.loads((tmp_path / "run" / "checkpoints" / "step_00000040" / "state.json").read_text())
    assert (state["batches"]["epoch"], state["batches"]["block"]) == (1, 7)
    resumed = run(load_recipe(file, ["training.resume=true"]))
    for key in ("history", "evaluation", "data"):
        assert resumed[key] == unbroken[key], key
    assert len({loss for _, loss in resumed["history"]["train"]}) == 50
    assert resumed["data"]["streaming"]
    assert (resumed["data"]["sha256"], resumed["data"]["train_tokens"]) == (None, None)
    assert "unigram" not in resumed["evaluation"]


def assert_equal_runs(resumed, unbroken, tmp_path):
    assert [step for step, _ in resumed["history"]["train"]] == list(range(1, 13))
    for key in ("history", "evaluation", "data", "parameters"):
        assert resumed[key] == unbroken[key], key
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "unbroken")]
    assert weights[0] == weights[1]


def test_a_run_whose_time_is_over_goes_on(sections, tmp_path, capsys):
    sections["training"] |= {"steps": 12, "checkpoint_every": 5}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    unbroken = run(load_recipe(file, [f"training.output_dir={tmp_path / 'unbroken'}"]))
    command = [str(file), "training.resume=true"]
    assert main([str(file), "training.max_minutes=1e-9"]) == 75
    stopped = capsys.readouterr()
    assert stopped.out == ""
    message = stopped.err.splitlines()[-1]
    assert "stopped after step 1 of 12" in message
    assert "the same command with training.resume=true goes on from" in message
    assert message.endswith(str(tmp_path / "run" / "checkpoints" / "step_00000001"))
    for step in range(2, 9):
        assert main([*command, "training.max_minutes=1e-9"]) == 75
        assert f"stopped after step {step} of 12" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert load_recipe(tmp_path / "run" / "recipe.yaml").training.max_minutes is None
    assert main([*command, "training.max_minutes=60"]) == 0
    assert_equal_runs(json.loads((tmp_path / "run" / "metrics.json").read_text()), unbroken, tmp_path)


def test_two_runs_do_not_share_a_folder(sections, tmp_path):
    overrides = ["training.checkpoint_every=6"]
    run(load_recipe(sections, overrides))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    code = "import sys; from pathlib import Path; from seqzoo.trainers.run_folder import locked\n"
    code += "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "locked\n"
    for option in ("resume", "overwrite"):
        with pytest.raises(FileExistsError, match=r"another process is training in .*run"):
            run(load_recipe(sections, [*overrides, f"training.{option}=true"]))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    other.kill()
    other.communicate()
    run(load_recipe(sections, [*overrides, "training.overwrite=true"]))


def test_a_folder_is_kept_until_the_finished_model_is_in_it(sections, tmp_path, monkeypatch):
    folder, tried = tmp_path / "run", []

    @contextmanager
    def save(where):
        with pytest.raises(FileExistsError, match="another process is training"), locked(folder):
            pass
        tried.append(where)
        with replacing_files(where) as unfinished:
            yield unfinished

    monkeypatch.setattr("seqzoo.trainers.run.replacing_files", save)
    run(load_recipe(sections))
    assert tried == [folder]
    with locked(folder):
        pass


CONVERSIONS = {
    "align": ["training.objective=align"],
    "distill with updates": ["training.objective=distill", "training.lora_rank=2", "training.keep_best=true"],
}


@pytest.mark.parametrize("overrides", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_stage_of_a_conversion_goes_on(conversion, tmp_path, monkeypatch, overrides):
    overrides = [*overrides, "training.checkpoint_every=4", "evaluation.every=5"]
    unbroken = run(load_recipe(conversion, [*overrides, f"training.output_dir={tmp_path / 'unbroken'}"]))
    following = PackedBatches.__next__

    def stop_after_nine(batches):
        if batches.offset == 9 * batches.batch_size:
            raise KeyboardInterrupt
        return following(batches)

    with monkeypatch.context() as patch:
        patch.setattr(PackedBatches, "__next__", stop_after_nine)
        with pytest.raises(KeyboardInterrupt):
            run(load_recipe(conversion, overrides))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert_equal_runs(run(load_recipe(conversion, [*overrides, "training.resume=true"])), unbroken, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_stage_of_a_conversion_is_killed(conversion, tmp_path, overrides):
    conversion["training"] |= {"checkpoint_every": 4, "gradient_accumulation_steps": 2}
    conversion["evaluation"]["every"] = 5
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(conversion))
    unbroken = run(load_recipe(file, [*overrides, f"training.output_dir={tmp_path / 'unbroken'}"]))
    killed("batch", 10, str(file), *overrides)
    assert (tmp_path / "run" / "checkpoints" / "step_00000008").is_dir()
    assert_equal_runs(run(load_recipe(file, [*overrides, "training.resume=true"])), unbroken, tmp_path)
