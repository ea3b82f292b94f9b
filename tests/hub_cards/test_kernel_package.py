import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import load_kernel_package
import pytest
import torch
from huggingface_hub import ModelCard
from load_kernel_package import load
from safetensors.torch import load_file

from seqzoo.__main__ import main
from seqzoo.hub_cards import kernel_package
from seqzoo.hub_cards.kernel_package import export_kernels
from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights, decaying_fast_weights_step
from seqzoo.kernels.delta_fast_weights import delta_fast_weights


OPS = (decaying_fast_weights, decaying_fast_weights_step, delta_fast_weights)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "fast-weights"
    export_kernels(folder)
    return folder


@pytest.fixture
def folder_of_kernels():
    """Where the library is. The checkout's folder `kernels`, importable from its root, is another one."""
    try:
        importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the library `kernels`: pip install --target DIR kernels, and PYTHONPATH=DIR")
    return Path(importlib.util.find_spec("kernels").origin).parents[1]


def run(python, *arguments, cwd, **variables):
    """A process of the second environment, which has nothing of seqzoo, no network and says nothing on stderr."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(cwd / "huggingface"), "HF_HUB_OFFLINE": "1"} | variables
    done = subprocess.run([python, "-I", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def metadata_of(package, backend="cpu"):
    return json.loads((package / "build" / f"torch-{backend}" / "metadata.json").read_text())


def test_layout(package):
    assert {path.name for path in package.iterdir()} == {"README.md", "build"}
    assert {path.name for path in (package / "build").iterdir()} == {"torch-cpu", "torch-cuda"}
    for backend in ("cpu", "cuda"):
        variant, metadata = package / "build" / f"torch-{backend}", metadata_of(package, backend)
        assert re.fullmatch(rf"_fast_weights_{backend}_[0-9a-f]{{12}}", metadata["id"])
        assert (metadata["name"], metadata["backend"]) == ("fast-weights", {"type": backend})
        assert metadata["digest"]["algorithm"] == "sha256"
        files = {path.name: path.read_bytes() for path in variant.glob("*.py")}
        assert {path.name for path in variant.iterdir() if path.name != "__pycache__"} == {*files, "metadata.json"}
        assert metadata["digest"]["files"] == {
            name: base64.b64encode(hashlib.sha256(source).digest()).decode() for name, source in files.items()
        }
        assert {"decaying_fast_weights_triton.py", "delta_fast_weights_chunked.py"} < files.keys()
        for source in files.values():
            assert not re.search(rb"^\s*(from|import) seqzoo", source, re.MULTILINE)


def test_card(package):
    card = ModelCard.load(package / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "kernels")
    assert card.text.startswith("# fast-weights\n")
    for expected in ("get_local_kernel", "trust_remote_code=True", "trusted", "not yet run on a GPU", "## Shapes"):
        assert expected in card.text
    assert "{{" not in card.text


def test_other_code_has_another_id(package, tmp_path, monkeypatch):
    export_kernels(tmp_path / "again")
    assert metadata_of(tmp_path / "again") == metadata_of(package)
    monkeypatch.setattr(kernel_package, "INIT", kernel_package.INIT + "# changed\n")
    export_kernels(tmp_path / "changed")
    assert metadata_of(tmp_path / "changed")["id"] != metadata_of(package)["id"]


def check_results(file):
    expected, found = load_kernel_package.results(*OPS), load_file(file)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_process_without_seqzoo_computes_the_same(package, second_environment, tmp_path):
    run(second_environment, load_kernel_package.__file__, package, "found.safetensors", cwd=tmp_path)
    check_results(tmp_path / "found.safetensors")


def test_the_kernels_library_loads_it(package, second_environment, folder_of_kernels, tmp_path):
    script = load_kernel_package.__file__
    run(second_environment, script, package, "found.safetensors", folder_of_kernels, cwd=tmp_path)
    check_results(tmp_path / "found.safetensors")


def test_the_kernels_library_finds_the_digest_right(package, second_environment, folder_of_kernels, tmp_path):
    code = """
import sys
sys.path.append(sys.argv[2])
from kernels import Metadata
from kernels._rust import Digest
metadata = Metadata.read_from_file(sys.argv[1] + "/metadata.json")
metadata.digest.validate(Digest.hash_variant(metadata.digest.algorithm, sys.argv[1]))
"""
    for backend in ("cpu", "cuda"):
        variant = package / "build" / f"torch-{backend}"
        run(second_environment, "-c", code, variant, folder_of_kernels, cwd=tmp_path)


def test_the_example_of_the_card_runs(package, second_environment, folder_of_kernels, tmp_path):
    (example, *_) = re.findall(r"```python\n(.*?)```", (package / "README.md").read_text(), re.DOTALL)
    shutil.copytree(package, tmp_path / package.name)
    start = "import sys; sys.path.append(sys.argv[1])\n"
    run(second_environment, "-c", start + example, folder_of_kernels, cwd=tmp_path)


def test_without_triton_nothing_is_said_until_it_is_asked_for(package, second_environment, tmp_path):
    code = """
import sys
sys.path.append(sys.argv[2])
sys.modules["triton"] = None  # no such module
import torch
from load_kernel_package import load
ops = load(sys.argv[1])
x = torch.randn(1, 70, 1, 16)
ops.decaying_fast_weights(x, x, x)
ops.delta_fast_weights(x, x / 4, x)
ops.decaying_fast_weights_step(*(x[:, :1] for _ in range(3)), state=torch.zeros(1, 1, 16, 16))
try:
    ops.decaying_fast_weights(x, x, x, implementation="triton")
except ImportError as error:
    print(error)
"""
    tests = Path(load_kernel_package.__file__).parent
    said = run(second_environment, "-W", "error", "-c", code, package, tests, cwd=tmp_path)
    assert said == "implementation='triton' needs Triton: pip install triton\n"


def test_copies_live_beside_seqzoo_and_each_other(package, tmp_path):
    """The second copy has the id of the first one, as when the same package is loaded from two folders."""
    pytest.importorskip("triton")
    shutil.copytree(package, tmp_path / "copy")
    names = [metadata_of(package)["id"], "other_version", None]
    copies = [load(package), load(package, "other_version"), load(tmp_path / "copy")]
    q, k, v = (torch.randn(1, 20, 1, 16, device="cuda" if torch.cuda.is_available() else "cpu") for _ in range(3))

    def compute(op):
        x, y, z = (tensor.clone().requires_grad_() for tensor in (q, k, v))
        output, _ = op(x, y, z, implementation="triton")
        return output, *torch.autograd.grad(output.sum(), (x, y, z))

    expected = compute(decaying_fast_weights)
    for _ in range(2):  # the second time, all are loaded
        for copy in copies:
            assert all(map(torch.equal, compute(copy.decaying_fast_weights), expected))
    namespaces = {
        sys.modules[f"{module}.decaying_fast_weights_triton"].NAMESPACE
        for module in ("seqzoo.kernels", *filter(None, names))
    }
    assert len(namespaces) == 3
    for namespace in namespaces:
        assert getattr(torch.ops, namespace).forward is not None


def test_the_command(tmp_path, capsys):
    assert main(["kernels", str(tmp_path / "deep" / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    files = sorted(str(path) for path in (tmp_path / "deep" / "out").rglob("*.*") if path.is_file())
    assert printed == [*files, "", f"{tmp_path / 'deep' / 'out' / 'README.md'} says how to use it"]


def test_nothing_is_overwritten_and_nothing_left_half_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert main(["kernels", str(tmp_path / "full")]) == 1
    assert "is not an empty folder: choose another name or remove it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]

    def full_disk(title):
        raise OSError("no space left")

    monkeypatch.setattr(kernel_package, "kernel_card", full_disk)
    with pytest.raises(OSError, match="no space left"):
        export_kernels(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
