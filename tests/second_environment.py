"""A Python environment that has everything except seqzoo, to prove that an export stands alone."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file


SCRIPT = Path(__file__).with_name("load_exported_model.py")
# The oldest transformers that cards name, with the huggingface_hub of its time.
OLDEST = ("transformers==5.17.0", "huggingface_hub==1.33.0")


@pytest.fixture(scope="session")
def second_environment(tmp_path_factory) -> Path:
    """The Python executable of an environment without seqzoo."""
    return make_second_environment(tmp_path_factory.mktemp("second_environment"))


@pytest.fixture(scope="session")
def oldest_environment(tmp_path_factory) -> Path:
    """The same with `OLDEST`, which is fetched where need be."""
    python = make_second_environment(tmp_path_factory.mktemp("oldest_environment"))
    install(python, *OLDEST)
    return python


# For tests of exports that do not go by `load_in_second_environment`.
IN_BOTH = pytest.mark.parametrize(
    "python", ["second_environment", pytest.param("oldest_environment", marks=pytest.mark.slow)]
)


def make_second_environment(folder: Path) -> Path:
    """Makes a virtual environment in `folder` that shares all libraries of this one and returns its Python.

    The libraries come by a path file. Python does not read the path files inside a folder that was added this way,
    and seqzoo, installed editable, is nothing but such a file here.
    """
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = [str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "shared_libraries.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    return python


def install(python: Path, *requirements: str) -> None:
    """Installs other versions of libraries into a second environment, where they go before the shared ones."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *requirements]
    subprocess.run(command, check=True, capture_output=True, text=True)


def load_in_second_environment(
    python: Path, exported: Path | str, input_ids: torch.Tensor, folder: Path, **variables: str
) -> dict:
    """Runs `load_exported_model.py`, which says what it does, with the Python of a second environment.

    It has no network, none of Python's environment variables and an empty Hugging Face cache, unless `variables` of
    the environment say otherwise; with those of a local Hub, `exported` may be an id. `folder` must not exist yet: it
    becomes the working directory.

    Returns:
        The facts that the script wrote, and under `logits` those of the exported model for `input_ids` [batch, time].
    """
    folder.mkdir(parents=True)
    save_file({"input_ids": input_ids}, folder / "inputs.safetensors")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(folder / "huggingface"), "HF_HUB_OFFLINE": "1"} | variables
    command = [str(python), "-I", str(SCRIPT), str(exported), str(torch.get_num_threads())]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{SCRIPT.name} failed:\n{done.stderr}"
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts | load_file(folder / "logits.safetensors")
