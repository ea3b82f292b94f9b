"""The house itself: packaging, imports, registration, links."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import seqzoo


ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["modeling", "kernels", "data", "trainers", "configs", "hub_cards", "cli", "metrics", "benchmarks"]


def python(code: str, *arguments: str, **environment: str) -> str:
    """Standard output of a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ | environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_every_room_is_linked_and_kernels_is_no_regular_package():
    for room in ROOMS:
        link = ROOT / "src" / "seqzoo" / room
        assert link.is_symlink()
        assert link.resolve() == ROOT / room
        assert not os.path.isabs(os.readlink(link))
    # `import kernels` of transformers must not find ours: see kernels/README.md.
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_links_that_became_text_files_are_named(tmp_path):
    package = tmp_path / "seqzoo"
    package.mkdir()
    shutil.copy(ROOT / "src" / "seqzoo" / "__init__.py", package)
    for room in ROOMS:
        (package / room).write_text(f"../../{room}")
    result = subprocess.run([sys.executable, "-c", "import seqzoo"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "git config core.symlinks true" in result.stderr


def test_module_names_are_unique():
    """An exported model is one flat folder."""
    stems = {}
    for room in ("modeling", "kernels"):
        for path in (ROOT / room).rglob("*.py"):
            if path.stem != "__init__":
                assert path.stem not in stems, f"{path} and {stems[path.stem]}"
                stems[path.stem] = path


def test_importing_seqzoo_imports_nothing_heavy():
    assert python("import sys, seqzoo; print('torch' in sys.modules, 'transformers' in sys.modules)") == "False False"


def test_classes_are_there_by_name():
    assert seqzoo.DecayFastWeightGPT2Config.model_type == "decay_fast_weight_gpt2"
    assert seqzoo.DecayFastWeightGPT2LMHeadModel.__name__ == "DecayFastWeightGPT2LMHeadModel"
    for name in seqzoo.OTHER_NAMES:
        assert getattr(seqzoo, name).__name__ == name
    assert {"ReZeroResNetConfig", "NESScoreModel", "DecayFastWeightCache", "rezero", "register"} <= set(dir(seqzoo))
    with pytest.raises(AttributeError, match="no attribute 'GPT5'"):
        _ = seqzoo.GPT5


def test_the_readme_imports_what_is_there():
    """Names that the README imports from the project, each line by itself."""
    lines = re.findall(r"^from seqzoo\S* import .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        exec(line, {})


@pytest.mark.parametrize(
    "code",
    [
        "import seqzoo; from transformers import AutoConfig",
        "from transformers import AutoConfig; import seqzoo",
        "import seqzoo; from transformers import AutoModelForCausalLM",
        "from transformers import AutoModelForCausalLM; import seqzoo",
        # The model file is what imports the Auto classes first.
        "from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2Model",
        "import seqzoo; from transformers import GPT2LMHeadModel",
        "from seqzoo.modeling.decay_fast_weight_gpt2.memory_decay_fast_weight_gpt2 import FastWeightMemory",
        "from transformers import GPT2LMHeadModel; import seqzoo",
        "import seqzoo; seqzoo.register()",
    ],
)
def test_models_are_registered_in_whatever_order_things_are_imported(code):
    check = """
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("decay_fast_weight_gpt2", n_layer=1, n_embd=8, n_head=1, vocab_size=9)
print(type(AutoModelForCausalLM.from_config(config)).__name__)
"""
    assert python(code + "\n" + check) == "DecayFastWeightGPT2LMHeadModel"


def test_the_auto_classes_work_with_the_checkout_first_on_the_path():
    """`python -m` puts the root there, and with it a folder named `kernels`."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from transformers import AutoModelForCausalLM; print('fine')"
    assert python(code, str(ROOT)) == "fine"


def test_help_imports_nothing_heavy():
    code = """
import sys
from seqzoo.__main__ import build_parser
build_parser().format_help()
print("torch" in sys.modules, "transformers" in sys.modules, "numpy" in sys.modules)
"""
    assert python(code) == "False False False"


@pytest.mark.slow
def test_a_wheel_from_an_sdist_has_every_file(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "build", "*.egg-info")
    )
    subprocess.run([sys.executable, "-m", "pip", "-q", "install", "build", "setuptools>=77"], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", str(tmp_path / "dist")],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in (".py", ".yaml", ".html") or (room == "hub_cards" and path.suffix == ".md"):
                if not (room == "configs" and path.suffix == ".md"):
                    assert f"seqzoo/{path.relative_to(ROOT)}" in names
    for name in ("rezero_claims.json", "rezero_claims_lm.png", "rezero_claims_resnet_alpha.png"):
        assert f"seqzoo/benchmarks/results/{name}" in names
    assert seqzoo.__version__ in wheel.name
