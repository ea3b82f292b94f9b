"""Set-up of every test run: before torch or triton are imported."""

import os


# Two cores: parallel workers of one test would otherwise fight over them, and results would depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Without a GPU Triton's interpreter runs the kernels. It is read when Triton is imported, which torch may do.
if not any(map(os.path.exists, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd"))):
    os.environ.setdefault("TRITON_INTERPRET", "1")
# No test may reach the network; those that speak HTTP set their own endpoint on this machine.
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch
from local_hub import LocalHub
from model_table import MODELS
from second_environment import oldest_environment, second_environment  # noqa: F401


torch.set_num_threads(1)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside a checkout of the project; a test that needs it is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data beside the checkout, which is not there")
    return SHARED_DATA


@pytest.fixture
def hub():
    """An empty Hub on this machine, for processes that get `hub.environment(...)`."""
    with LocalHub() as hub:
        yield hub


@pytest.fixture(params=MODELS, ids=lambda row: row.name)
def row(request):
    """Every model of the table, but where a row switches the test off."""
    test = request.function.__name__
    if test in request.param.off:
        pytest.skip(f"{request.param.name}: {request.param.off[test]}")
    return request.param
