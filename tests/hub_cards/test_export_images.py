"""Exports of image models, where seqzoo is missing."""

import json
import os
import re
import subprocess

import pytest
import torch
from model_table import IMAGE_MODELS
from PIL import Image
from safetensors.torch import load_file, save_file
from second_environment import IN_BOTH
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from seqzoo.hub_cards.export import export


SCRIPT = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline
try:
    import seqzoo
except ImportError:
    pass
else:
    sys.exit("seqzoo can be imported here")
pixels = load_file("pixels.safetensors")["pixels"]
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    save_file({"logits": model(pixels).logits}, "logits.safetensors")
pipe = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True)
print(json.dumps(pipe("picture.png")))
model.save_pretrained("saved_again")
pipe.image_processor.save_pretrained("saved_again")
"""


# One of them by default: what an export takes along is the same for all.
ROWS = [IMAGE_MODELS[0], *(pytest.param(row, marks=pytest.mark.slow) for row in IMAGE_MODELS[1:])]


@IN_BOTH
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_exported_image_model_stands_alone(row, python, tmp_path, request):
    model = row.build()
    model.save_pretrained(tmp_path / "run")
    size = row.image_size
    ViTImageProcessorPil(size={"height": size, "width": size}).save_pretrained(tmp_path / "run")
    files = export(tmp_path / "run", tmp_path / "my-model")
    card = (tmp_path / "my-model" / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "alpha" in card or row.config.get("block") in ("vanilla", "fixup")
    assert {file.suffix for file in files} == {".json", ".md", ".png", ".py", ".safetensors"}
    shown = re.findall(r"!\[.+\]\((.+)\)", card)
    assert sorted(shown) == [file.name for file in files if file.suffix == ".png"]

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    pixels = row.inputs()
    save_file({"pixels": pixels}, folder / "pixels.safetensors")
    Image.new("RGB", (20, 30), (200, 10, 10)).save(folder / "picture.png")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(folder / "huggingface"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(request.getfixturevalue(python)), "-I", "-c", SCRIPT, str(tmp_path / "my-model")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert torch.equal(load_file(folder / "logits.safetensors")["logits"], model(pixels).logits)
    answers = json.loads(done.stdout)
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    assert {answer["label"] for answer in answers} == {f"LABEL_{i}" for i in range(5)}
    needed = {file.name for file in files} - {"README.md", *shown}
    assert {file.name for file in (folder / "saved_again").iterdir()} == needed
