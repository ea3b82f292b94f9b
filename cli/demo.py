"""The zoo's main job from start to end: train, convert, fine-tune, compare, export, generate.

On the English that comes with Python, on two idle cores, in less than ten minutes. Leaves model folders, the exported
repository with its card, demo.json and demo.png in the output folder.
"""

import argparse
import sys


PROMPT = "Return a list of"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        default="runs/demo",
        help="folder for all of it; an earlier demo there is replaced (default: runs/demo)",
    )
    parser.add_argument(
        "--steps", type=int, default=600, help="steps of the teacher; fine-tuning takes a fifth of them (default: 600)"
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    if args.steps < 10:
        raise ValueError(f"--steps {args.steps} is too few to train anything; give at least 10")
    Demo(Path(args.out), args.steps).run()
    return 0


class Demo:
    """The steps; each says what it does and why, and leaves a folder."""

    def __init__(self, out, steps: int):
        self.out = out
        self.exported = out / "decaying-fast-weights-demo"  # the name that its card has
        self.steps = steps
        self.fine_tuning_steps = steps // 5
        self.metrics = {}

    def run(self) -> None:
        import time

        start = time.monotonic()
        self.train_teacher()
        self.train_teacher_on()
        self.convert_and_fine_tune()
        self.train_from_scratch()
        times = self.time_generation()
        self.compare(times, start)
        self.export()
        self.generate()
        say(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Look at {self.out / 'demo.png'} and at")
        say(f"the card {self.exported / 'README.md'}.")

    def train(self, name: str, recipe: str, *overrides: str) -> None:
        from seqzoo.trainers.recipe import load_recipe
        from seqzoo.trainers.run import run as train

        settings = ["training.overwrite=true", f"training.output_dir={self.out / name}"]
        metrics = train(load_recipe(recipe, [*settings, *overrides]))
        evaluation = metrics["evaluation"]
        self.metrics[name] = metrics
        say(f"  held out: {evaluation['bits_per_byte']:.3f} bits per byte, perplexity {evaluation['perplexity']:.2f}")

    def train_teacher(self) -> None:
        say("1. A softmax GPT-2, the teacher: trained from nothing on the documentation that comes with Python.")
        self.train("teacher", "gpt2/demo", *length(self.steps))

    def fine_tuning(self) -> list[str]:
        """The same tokens in the same order, at the same rate, for teacher and student."""
        steps = length(self.fine_tuning_steps)
        return ["tokenizer.vocab_size=null", *steps, "training.seed=1", "training.lr=2e-3"]

    def train_teacher_on(self) -> None:
        say(f"2. The teacher, {self.fine_tuning_steps} steps on: what more training alone gives, to compare fairly.")
        overrides = [f"model.init_from={self.out / 'teacher'}", "model.config={}", *self.fine_tuning()]
        self.train("teacher_continued", "gpt2/demo", *overrides)

    def convert_and_fine_tune(self) -> None:
        say("3. The student: attention swapped for decaying fast weights, then fine-tuned on the same tokens.")
        say("   Its state has a constant size, and 'learned_clamped' positions let it go beyond the training length.")
        overrides = [
            f"model.convert_gpt2={self.out / 'teacher'}",
            "model.config={position_embedding_type: learned_clamped}",
            "evaluation.lengths=[128, 256, 512, 2048]",
            *self.fine_tuning(),
        ]
        self.train("student", "decay_fast_weight_gpt2/demo", *overrides)

    def train_from_scratch(self) -> None:
        say("4. A decaying-fast-weight model from nothing on as many tokens as teacher and student had together:")
        say("   what converting is worth, or costs.")
        steps = self.steps + self.fine_tuning_steps
        self.train("from_scratch", "decay_fast_weight_gpt2/demo", *length(steps))

    def time_generation(self) -> dict:
        from transformers import AutoConfig, GPT2LMHeadModel

        from seqzoo.benchmarks.generation import CALLS, CONTEXTS, DYNAMIC, OURS, decode_times
        from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import (
            DecayFastWeightGPT2LMHeadModel,
        )

        say("5. Time and memory of the next token, against how many came before (softmax beside fast weights).")
        config = AutoConfig.from_pretrained(self.out / "teacher", n_positions=max(CONTEXTS) + CALLS)
        gpt2 = GPT2LMHeadModel(config).eval()
        times = decode_times({DYNAMIC: (gpt2, False), OURS: (DecayFastWeightGPT2LMHeadModel.from_gpt2(gpt2), False)})
        for name, entries in times.items():
            for context, entry in entries.items():
                size = f"{entry['cache_bytes'] / 1e6:8.2f} MB"
                say(f"   {name:22} context {int(context):>6,}: {entry['ms_per_token']:7.2f} ms, cache {size}")
        return times

    def compare(self, times: dict, start: float) -> None:
        import json
        import time

        from seqzoo.benchmarks.figures import draw_demo
        from seqzoo.benchmarks.machine import describe
        from seqzoo.metrics.language_modeling import share_kept

        say("6. The comparison, on held-out text:")
        teacher, student, from_scratch = (
            self.metrics[name]["evaluation"] for name in ("teacher_continued", "student", "from_scratch")
        )
        rows = {
            "teacher": teacher,
            "student": student,
            "from_scratch": from_scratch,
            "unigram": student["unigram"],
        }
        comparison = {name: {key: row[key] for key in ("bits_per_byte", "perplexity")} for name, row in rows.items()}
        for name, row in comparison.items():
            say(f"   {name:13} {row['bits_per_byte']:.3f} bits per byte   perplexity {row['perplexity']:8.2f}")
        comparison["share_kept"] = share_kept(teacher["perplexity"], student["perplexity"])
        say(f"   share kept: {comparison['share_kept']:.1%} (perplexity of the teacher / of the student)")
        if comparison["share_kept"] > 1:
            say("   More than all: with so little training the memory learns faster than attention does.")
        if from_scratch["perplexity"] < student["perplexity"]:
            say(
                "   From scratch is ahead here: converting is for teachers that saw far more text than one can afford."
            )

        # The student's metrics are what its card shows.
        path = self.out / "student" / "metrics.json"
        metrics = json.loads(path.read_text(encoding="utf-8")) | {"comparison": comparison, "generation": times}
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        result = {
            "machine": describe(),
            "minutes": round((time.monotonic() - start) / 60, 2),
            "comparison": comparison,
            "generation": times,
            "runs": {name: str(self.out / name / "metrics.json") for name in self.metrics},
        }
        (self.out / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        draw_demo(
            {name: run["history"] for name, run in self.metrics.items()}, self.steps, times, self.out / "demo.png"
        )

    def export(self) -> None:
        import shutil

        from seqzoo.hub_cards.export import export

        say("7. The student as a self-contained repository: weights, code, tokenizer and a card with these numbers.")
        shutil.rmtree(self.exported, ignore_errors=True)
        export(self.out / "student", self.exported)

    def generate(self) -> None:
        import os
        import subprocess

        say("8. A fresh process, where seqzoo cannot be imported, loads the repository with transformers alone:")
        # An exported repository needs no network; `offline` proves it.
        result = subprocess.run(
            [sys.executable, "-c", LOAD_AND_GENERATE, str(self.exported), PROMPT],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise RuntimeError(f"the exported repository does not load:\n{result.stderr}")
        say("\n" + "\n".join(f"   | {line}" for line in result.stdout.strip().splitlines()))


LOAD_AND_GENERATE = """
import sys
sys.modules["seqzoo"] = None  # importing it would fail
from transformers import pipeline, set_seed
set_seed(0)
generate = pipeline("text-generation", model=sys.argv[1], trust_remote_code=True)
print(generate(sys.argv[2], min_new_tokens=80, max_new_tokens=80, do_sample=True, top_k=20)[0]["generated_text"])
"""


def length(steps: int) -> list[str]:
    """Overrides for a run of so many steps: the warm-up is a fifteenth of it."""
    return [f"training.steps={steps}", f"training.warmup_steps={steps // 15}"]


def say(text: str) -> None:
    print(text, flush=True)
