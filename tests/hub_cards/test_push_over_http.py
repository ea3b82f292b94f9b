"""Pushes and loads through a local Hub: real clients, each a process of its own with an empty cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from local_hub import READ_TOKEN, WRITE_TOKEN, is_lfs, judge_card
from model_table import MODELS
from second_environment import load_in_second_environment
from transformers import AutoModelForCausalLM

from seqzoo.hub_cards.export import export


REPO = "someone/my-model"
HF = str(Path(sys.executable).with_name("hf"))


@pytest.fixture
def exported(run_dir, tmp_path):
    export(run_dir, tmp_path / "my-model")
    return tmp_path / "my-model"


@pytest.fixture
def process(hub, tmp_path):
    """Runs a command with an empty cache against the local Hub."""
    homes = iter(range(1000))

    def run(*command: str, token: str | None = WRITE_TOKEN, **variables: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= hub.environment(tmp_path / f"home{next(homes)}", token) | variables
        return subprocess.run(
            [*map(str, command)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture
def push(process):
    def run(*arguments: str, **options) -> subprocess.CompletedProcess:
        return process(sys.executable, "-m", "seqzoo", "push", *arguments, **options)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def on_the_hub(hub, branch: str = "main") -> dict[str, bytes]:
    """The files of the repository, but for the one that the Hub makes itself."""
    return {name: data for name, data in hub.repositories[REPO].files(branch).items() if name != ".gitattributes"}


def error_of(done: subprocess.CompletedProcess) -> str:
    """The one line, beside progress, that a failed command leaves."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    return line


def test_what_is_pushed_loads_on_another_machine_with_the_same_bits(
    hub, push, process, exported, tmp_path, second_environment
):
    done = push(exported, REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.url}/{REPO}\n"
    assert on_the_hub(hub) == contents(exported)
    assert "POST /api/validate-yaml" in hub.requests
    assert judge_card(on_the_hub(hub)["README.md"].decode()) == []
    assert len(hub.repositories[REPO].commits) == 2  # the empty repository and all of the push

    downloaded = process(HF, "download", REPO, "--local-dir", tmp_path / "downloaded", token=None)
    assert downloaded.returncode == 0, downloaded.stderr
    files = contents(tmp_path / "downloaded")
    assert files.pop(".gitattributes")
    assert files == contents(exported)

    input_ids = MODELS[0].inputs()
    model = AutoModelForCausalLM.from_pretrained(exported).eval()
    with torch.no_grad():
        logits = model(input_ids).logits
    options = {"attention_mask": torch.ones_like(input_ids), "do_sample": False}
    generated = model.generate(input_ids, min_new_tokens=8, max_new_tokens=8, **options).tolist()
    facts = load_in_second_environment(
        second_environment, REPO, input_ids, tmp_path / "there", **hub.environment(tmp_path / "there" / "hf", None)
    )
    assert facts["import_error"] == "No module named 'seqzoo'"
    assert torch.equal(facts["logits"], logits)
    assert facts["generated"] == generated


@pytest.mark.parametrize(
    ("repo_id", "options", "message"),
    [
        (REPO, {"token": "hf_wrong"}, "does not accept the token: log in with `hf auth login`"),
        (REPO, {"token": READ_TOKEN}, f"may not write to {REPO}: use one that may"),
        ("stranger/my-model", {}, "may not write to stranger/my-model"),
        (REPO, {"token": None}, "needs a token to push: log in with `hf auth login`"),
        (REPO, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        (REPO, {"HF_ENDPOINT": "http://127.0.0.1:9"}, f"connection broke while pushing to {REPO}"),
        ("a b/c", {}, "'a b/c'"),
        ("my-model", {}, "write user/my-model"),
    ],
)
def test_a_push_that_cannot_be_is_one_error(hub, push, exported, repo_id, options, message):
    assert message in error_of(push(exported, repo_id, **options))
    assert hub.repositories == {}


def test_refused_folders_are_not_heard_of_and_force_pushes_them(hub, push, exported, run_dir):
    torch.save({}, exported / "training_args.bin")
    assert "training_args.bin is a pickle" in error_of(push(exported, REPO))
    assert hub.requests == []
    for name in ("checkpoints", "logs", ".cache"):
        (exported / name).mkdir()
        (exported / name / "file").write_text("stays here")
    assert push(exported, REPO, "--force").returncode == 0
    assert on_the_hub(hub) == contents(exported)
    assert "training_args.bin" in on_the_hub(hub)


def test_a_card_that_the_hub_rejects_is_one_error_and_a_mended_one_goes_through(hub, push, exported):
    good = (exported / "README.md").read_text()
    (exported / "README.md").write_text(good.replace("license: apache-2.0", "license: [1, 2]"))
    assert '"license" must be the id of a licence' in error_of(push(exported, REPO))
    assert on_the_hub(hub) == {}
    (exported / "README.md").write_text(good)
    assert push(exported, REPO).returncode == 0
    assert on_the_hub(hub) == contents(exported)


def test_a_connection_that_breaks_in_the_commit_leaves_nothing_and_a_second_push_goes_on(hub, push, exported):
    hub.breaks["commit"] = 1
    assert f"connection broke while pushing to {REPO}" in error_of(push(exported, REPO))
    assert on_the_hub(hub) == {}
    sent = [request for request in hub.requests if request.startswith("PUT /lfs/")]
    assert len(sent) == 1
    assert push(exported, REPO).returncode == 0
    assert on_the_hub(hub) == contents(exported)
    assert [request for request in hub.requests if request.startswith("PUT /lfs/")] == sent


def test_one_break_of_an_upload_heals_by_itself(hub, push, exported):
    hub.breaks["upload"] = 1
    assert push(exported, REPO).returncode == 0
    assert on_the_hub(hub) == contents(exported)


@pytest.mark.slow
def test_an_upload_that_breaks_again_and_again_is_one_error_and_a_second_push_succeeds(hub, push, exported):
    """The client tries six times, for half a minute."""
    hub.breaks["upload"] = 6
    assert f"connection broke while pushing to {REPO}" in error_of(push(exported, REPO))
    assert on_the_hub(hub) == {}
    assert push(exported, REPO).returncode == 0
    assert on_the_hub(hub) == contents(exported)


def test_a_download_that_breaks_leaves_nothing_half_and_a_second_one_succeeds(hub, push, process, exported, tmp_path):
    push(exported, REPO)
    hub.breaks["download"] = 1000
    broken = process(HF, "download", REPO, "model.safetensors", "--local-dir", tmp_path / "downloaded")
    assert broken.returncode == 1
    assert "peer closed connection without sending complete message body" in broken.stderr.splitlines()[-1]
    assert not (tmp_path / "downloaded" / "model.safetensors").exists()
    hub.breaks.clear()
    done = process(HF, "download", REPO, "model.safetensors", "--local-dir", tmp_path / "downloaded")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "downloaded" / "model.safetensors").read_bytes() == on_the_hub(hub)["model.safetensors"]


def test_a_second_push_updates_and_drops_weights_that_are_gone(hub, push, exported):
    assert push(exported, REPO).returncode == 0
    hub.repositories[REPO].files()["notes.txt"] = b"of somebody else"
    model = AutoModelForCausalLM.from_pretrained(exported)
    (exported / "model.safetensors").unlink()
    model.save_pretrained(exported, max_shard_size="20KB")
    assert push(exported, REPO).returncode == 0
    assert on_the_hub(hub) == contents(exported) | {"notes.txt": b"of somebody else"}
    assert sum(map(is_lfs, on_the_hub(hub))) > 1

    before = hub.repositories[REPO].branches["main"]
    assert push(exported, REPO).returncode == 0  # nothing is new
    assert hub.repositories[REPO].branches["main"] == before


def test_a_private_repository_is_private_and_a_public_one_is_not_taken_for_it(hub, push, process, exported, tmp_path):
    assert push(exported, REPO, "--private").returncode == 0
    assert hub.repositories[REPO].private
    outsider = process(HF, "download", REPO, "config.json", "--local-dir", tmp_path / "a", token=None)
    assert outsider.returncode == 1
    assert not (tmp_path / "a" / "config.json").exists()
    owner = process(HF, "download", REPO, "config.json", "--local-dir", tmp_path / "a")
    assert owner.returncode == 0, owner.stderr
    assert push(exported, REPO, "--private").returncode == 0

    assert push(exported, "someone/public").returncode == 0
    assert "someone/public exists and is public" in error_of(push(exported, "someone/public", "--private"))


def test_a_branch_has_to_exist_and_then_gets_the_push_alone(hub, push, process, exported):
    assert f"there is no repository {REPO}" in error_of(push(exported, REPO, "--revision", "v2"))
    assert hub.repositories == {}
    assert push(exported, REPO).returncode == 0
    before = on_the_hub(hub)

    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps(config | {"gate_init": 4.5}))
    remedy = f"hf repos branch create {REPO} v2"
    assert remedy in error_of(push(exported, REPO, "--revision", "v2"))
    assert process(HF, *remedy.split()[1:]).returncode == 0
    done = push(exported, REPO, "--revision", "v2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.url}/{REPO}/tree/v2\n"
    assert on_the_hub(hub) == before
    assert on_the_hub(hub, "v2") == contents(exported)


LOAD = """
import json, sys
sys.modules["seqzoo"] = None
from transformers import AutoModelForCausalLM
for repo_id, revision, token in json.loads(sys.argv[1]):
    options = {"revision": revision, "token": token, "trust_remote_code": True}
    try:
        print(AutoModelForCausalLM.from_pretrained(repo_id, **options).config.gate_init)
    except OSError as error:
        print("OSError:", " ".join(str(error).split()))
"""


@pytest.mark.slow
def test_a_branch_is_loaded_from_and_wrong_loads_are_one_error(hub, push, process, exported):
    assert push(exported, REPO).returncode == 0
    config = json.loads((exported / "config.json").read_text())
    changed = json.dumps(config | {"gate_init": 4.5}).encode()
    hub.repositories[REPO].commit("v2", hub.repositories[REPO].files() | {"config.json": changed})

    wrong = [(REPO, "v3", None), ("someone/none", "main", WRITE_TOKEN), (REPO, "v2", "hf_wrong")]
    loaded = process(sys.executable, "-c", LOAD, json.dumps([*wrong, (REPO, "v2", None)]), token=None)
    assert loaded.returncode == 0, loaded.stderr
    *errors, gate_init = loaded.stdout.splitlines()
    assert gate_init == "4.5"
    for error, message in zip(errors, ["v3 is not a valid git", "someone/none is not", REPO], strict=True):
        assert error.startswith("OSError: ")
        assert message in error
    for repo_id, revision, token in wrong:
        downloaded = process(HF, "download", repo_id, "config.json", "--revision", revision, token=token)
        assert downloaded.returncode == 1
        assert "Traceback" not in downloaded.stderr
