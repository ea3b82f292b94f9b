"""Every file of configs/accelerate with CPU processes: what one process computes, and exact resume after SIGKILL."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import run


CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "accelerate"
LAUNCHED = Path(__file__).with_name("launched.py")
# Processes of all machines, machines, precision, sharded.
TOPOLOGIES = {
    "one_gpu": (1, 1, "bf16", False),
    "two_cpu_processes": (2, 1, "no", False),
    "multi_gpu_ddp": (8, 1, "bf16", False),
    "fsdp2": (8, 1, "bf16", True),
    "two_machines_ddp": (16, 2, "bf16", False),
    "two_machines_fsdp2": (16, 2, "bf16", True),
}


def start(config: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """`accelerate launch` on CPUs with a file of configs/accelerate."""
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / f"{config}.yaml", *arguments],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(config: str, recipe: Path, *overrides: str, **environment: str) -> str:
    """Two processes on one machine; what they wrote to stderr."""
    arguments = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    process = start(config, *arguments, LAUNCHED, recipe, *overrides, **environment)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == (-signal.SIGKILL if "KILL_AT_BATCH" in environment else 0), errors
    return errors


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def history(result: dict, part: str = "train") -> dict[int, float]:
    return dict(result["history"][part])


def streamed(sections: dict) -> None:
    """Make the recipe a streaming one with several blocks an epoch."""
    sections["data"] |= {"streaming": True, "validation": sections["data"]["source"], "shuffle_buffer": 40}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_says_what_it_is_named_for(path, monkeypatch):
    """As the launcher of Accelerate understands it."""
    processes, machines, precision, sharded = TOPOLOGIES[path.stem]
    args, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(path), "script.py", "recipe"])
    )
    assert (args.num_processes, args.num_machines, args.mixed_precision) == (processes, machines, precision)
    assert args.use_fsdp == sharded
    assert args.multi_gpu == (processes > 1 and not sharded)
    assert not args.use_cpu
    if sharded:
        assert (args.fsdp_version, args.fsdp_state_dict_type) == (2, "FULL_STATE_DICT")
        assert args.fsdp_auto_wrap_policy == "TRANSFORMER_BASED_WRAP"
    # The head of the file has the command.
    assert f"--config_file configs/accelerate/{path.name}" in path.read_text()


def test_sharded_checkpoints_are_refused(sections, monkeypatch):
    for variable, value in (("ACCELERATE_USE_FSDP", "true"), ("FSDP_VERSION", "2")):
        monkeypatch.setenv(variable, value)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    monkeypatch.setattr("accelerate.state.AcceleratorState.fsdp_plugin", plugin, raising=False)
    with pytest.raises(ValueError, match="fsdp_state_dict_type: FULL_STATE_DICT"):
        run(load_recipe(sections))


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_two_processes_killed_in_the_second_epoch(sections, tmp_path, streaming):
    if streaming:
        streamed(sections)
    sections["training"] |= {"steps": 50, "checkpoint_every": 8, "gradient_accumulation_steps": 2}
    sections["data"]["packing"] = "separate"
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    launch("two_cpu_processes", file, f"training.output_dir={tmp_path / 'unbroken'}")
    launch("two_cpu_processes", file, KILL_AT_BATCH="45")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"step_00000032", "step_00000040"}
    state = json.loads((checkpoints / "step_00000040" / "state.json").read_text())
    assert state["batches"]["epoch"] == 1
    assert state["num_processes"] == 2
    errors = launch("two_cpu_processes", file, "training.resume=true")
    assert "going on after step 40" in errors
    resumed, unbroken = metrics(tmp_path / "run"), metrics(tmp_path / "unbroken")
    for key in ("history", "evaluation", "data"):
        assert resumed[key] == unbroken[key], key
    assert len(set(history(resumed).values())) == 50
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "unbroken")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_two_processes_stop_together_when_the_time_of_one_is_over(sections, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    launch("two_cpu_processes", file, f"training.output_dir={tmp_path / 'unbroken'}")
    arguments = ["--num_processes", "2", "--main_process_port", "0", LAUNCHED, file, "training.max_minutes=60"]
    process = start("two_cpu_processes", *arguments, OVER_AT_BATCH="5")
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert errors.count("stopped after step 5 of 12") == 1
    assert "exitcode  : 75" in errors
    launch("two_cpu_processes", file, "training.resume=true", "training.max_minutes=60")
    assert metrics(tmp_path / "run")["history"] == metrics(tmp_path / "unbroken")["history"]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gpt2", "decay_fast_weight_gpt2"])
def test_fsdp2(sections, tmp_path, model_type):
    """Sharded over two processes: the losses of one, exact resume after SIGKILL, and a whole model at the end."""
    sections["model"]["model_type"] = model_type
    sections["model"]["config"] |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0}
    if model_type == "gpt2":
        sections["model"]["config"]["attn_pdrop"] = 0.0
    sections["training"] |= {"steps": 30, "checkpoint_every": 5, "gradient_accumulation_steps": 2, "keep_best": True}
    sections["evaluation"] |= {"every": 10, "lengths": [8]}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    one = run(load_recipe(file, [f"training.output_dir={tmp_path / 'one'}"]))
    errors = launch("fsdp2", file, f"training.output_dir={tmp_path / 'unbroken'}", FSDP_ON_CPU="1")
    assert "2 processes (FSDP, gloo)" in errors
    blocks = {"transformer.h.0", "transformer.h.1"}
    sharded = next(line for line in errors.splitlines() if "sharded:" in line).split("sharded:")[1].split()
    assert blocks < set(sharded)
    unbroken = metrics(tmp_path / "unbroken")
    for part in ("train", "validation"):
        assert history(unbroken, part) == pytest.approx(history(one, part), abs=1e-4)
    assert unbroken["evaluation"]["by_length"]["8"] == pytest.approx(one["evaluation"]["by_length"]["8"], rel=1e-4)
    assert unbroken["parameters"] == one["parameters"]

    launch("fsdp2", file, FSDP_ON_CPU="1", KILL_AT_BATCH="23")
    launch("fsdp2", file, "training.resume=true", FSDP_ON_CPU="1")
    resumed = metrics(tmp_path / "run")
    for key in ("history", "evaluation", "data"):
        assert resumed[key] == unbroken[key], key
    weights = load_file(tmp_path / "one" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert model.num_parameters() == one["parameters"]
    for name, weight in load_file(tmp_path / "run" / "model.safetensors").items():
        assert weight.numpy() == pytest.approx(weights.pop(name).numpy(), abs=1e-4), name
    assert not weights


@pytest.mark.slow
@pytest.mark.parametrize("config", ["one_gpu", "multi_gpu_ddp", "fsdp2"])
def test_half_precision_on_one_machine(sections, tmp_path, config):
    """The precision of the file itself."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    one = run(load_recipe(file, [f"training.output_dir={tmp_path / 'one'}", "training.mixed_precision=no"]))
    processes = min(TOPOLOGIES[config][0], 2)
    arguments = ["--num_processes", str(processes), "--main_process_port", "0", LAUNCHED, file]
    process = start(config, *arguments, **({"FSDP_ON_CPU": "1"} if config == "fsdp2" else {}))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    half = metrics(tmp_path / "run")
    assert half["training"]["num_processes"] == processes
    assert history(half) != history(one)
    assert history(half)[1] == pytest.approx(history(one)[1], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["two_machines_ddp", "two_machines_fsdp2"])
def test_two_machines(sections, tmp_path, config):
    """Two launchers with a process each, which find each other through the network of this machine."""
    sections["model"]["config"] |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sections["training"]["checkpoint_every"] = 6
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    one = run(load_recipe(file, [f"training.output_dir={tmp_path / 'one'}"]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port]
    address += ["--mixed_precision", "no"]
    environment = {"FSDP_ON_CPU": "1"} if config == "two_machines_fsdp2" else {}
    for overrides in (["training.steps=12"], ["training.resume=true", "evaluation.max_tokens=400"]):
        machines = [
            start(config, *address, "--machine_rank", str(rank), LAUNCHED, file, *overrides, **environment)
            for rank in range(2)
        ]
        for machine in machines:
            _, errors = machine.communicate(timeout=300)
            assert machine.returncode == 0, errors
        assert history(metrics(tmp_path / "run")) == pytest.approx(history(one), abs=1e-4)
