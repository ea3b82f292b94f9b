import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from seqzoo.data.images import load_images
from seqzoo.trainers.image_classification import dry_run
from seqzoo.trainers.loop import new_optimizer
from seqzoo.trainers.recipe import RecipeError, TrainingSection, load_recipe
from seqzoo.trainers.run import run


@pytest.fixture
def sections(tmp_path):
    return {
        "task": "image_classification",
        "model": {"model_type": "rezero_resnet", "config": {"hidden_sizes": [8, 16], "depths": [1, 1]}},
        "data": {"source": "digits", "flip": True, "pad": 1},
        "training": {
            "steps": 8,
            "batch_size": 32,
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 1e-4,
            "output_dir": str(tmp_path / "run"),
        },
        "evaluation": {"every": 4, "batch_size": 128},
        "tracking": {"tracker": "none", "log_every": 1},
    }


def test_a_run_leaves_a_model_that_its_pipeline_uses_as_it_was_trained(sections, tmp_path):
    sections["data"] = {"source": "digits"}
    metrics = run(load_recipe(sections, ["training.steps=60", "training.batch_size=64"]))
    evaluation = metrics["evaluation"]
    assert evaluation["accuracy"] > 0.6
    assert evaluation["loss"] < 2
    assert sum(entry["images"] for entry in evaluation["by_class"].values()) == 359
    assert metrics["data"]["license"] == "cc-by-4.0"
    assert metrics["training"]["images_seen"] == 3840
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics

    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    held_out = load_images("digits").validation
    pixels = processor(list(held_out.images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        predicted = model(pixels).logits.argmax(-1).numpy()
    assert (predicted == held_out.labels).mean() == pytest.approx(evaluation["accuracy"])
    assert model.config.id2label[7] == "7"
    for mode in ("L", "RGBA"):
        assert processor(Image.new(mode, (8, 8)), return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 8)

    pictures = [Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in held_out.images[:20]]
    answers = pipeline("image-classification", model=str(tmp_path / "run"))(pictures)
    assert [int(answer[0]["label"]) for answer in answers] == predicted[:20].tolist()


def test_a_stopped_and_resumed_run_has_the_bits_of_one_that_was_not(sections, tmp_path):
    whole = run(load_recipe(sections, [f"training.output_dir={tmp_path / 'whole'}"]))

    class Stop(Exception):
        pass

    from seqzoo.data.images import ImageBatches

    original, count = ImageBatches.__next__, 0

    def stopping(self):
        nonlocal count
        count += 1
        if count > 6:
            raise Stop
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageBatches, "__next__", stopping)
        with pytest.raises(Stop):
            run(load_recipe(sections, ["training.checkpoint_every=3"]))
    resumed = run(load_recipe(sections, ["training.checkpoint_every=3", "training.resume=true"]))
    assert resumed["history"]["train"] == whole["history"]["train"]
    assert resumed["evaluation"] == whole["evaluation"]


def test_training_goes_on_from_another_model_with_its_processor(sections, tmp_path):
    run(load_recipe(sections))
    again = {"model": {"model_type": "rezero_resnet", "init_from": str(tmp_path / "run")}}
    run(load_recipe(sections | again, [f"training.output_dir={tmp_path / 'again'}", "data.validation_fraction=0.5"]))
    processors = [AutoImageProcessor.from_pretrained(tmp_path / name) for name in ("run", "again")]
    assert processors[0].to_dict() == processors[1].to_dict()


def test_folders_of_pictures_of_all_sizes_are_scaled(sections, tmp_path):
    for i in range(24):
        path = tmp_path / "pets" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + i, 9), (250 * (i % 2), 0, 0)).save(path)
    changes = [f"data.source={tmp_path / 'pets'}", "data.image_size=10", "data.classes=2", "training.batch_size=8"]
    metrics = run(load_recipe(sections, changes))
    assert (metrics["data"]["height"], metrics["data"]["width"]) == (10, 10)
    assert "license" not in metrics["data"]
    with pytest.raises(RecipeError, match=r"has 2 classes; set data\.classes"):
        run(load_recipe(sections, [*changes, "data.classes=3", "training.overwrite=true"]))
    with pytest.raises(ValueError, match="different sizes"):
        run(load_recipe(sections, [*changes, "data.image_size=null", "training.overwrite=true"]))
    with pytest.raises(ValueError, match="digits are 8x8: only image files are scaled"):
        run(load_recipe(sections, ["data.image_size=10", "training.overwrite=true"]))


def test_a_dry_run_reads_no_data(sections, monkeypatch):
    monkeypatch.setattr("seqzoo.trainers.image_classification.load_images", None)
    summary = dry_run(load_recipe(sections, ["data.classes=7"]))
    assert summary["logits"] == [32, 7]
    assert summary["images"] == 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.validation_fraction=1", r"data\.validation_fraction is 1"),
        ("data.classes=1", r"data\.classes is 1, but must be 2 or more"),
        ("data.pad=-1", r"data\.pad is -1"),
        ("data.image_size=0", r"data\.image_size is 0"),
        ("data.sequence_length=5", r"unknown key data\.sequence_length"),
        ("training.optimizer=adam", r"training\.optimizer is 'adam'; did you mean adamw"),
        ("training.residual_lr=0", r"training\.residual_lr is 0"),
        ("tokenizer.vocab_size=300", r"tokenizer\.vocab_size belongs to the task causal_lm"),
        ("tokenizer.kind=words", r"tokenizer\.kind belongs to the task causal_lm"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(sections, change, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(sections, [change])


def test_a_model_of_another_kind_or_other_classes_is_refused(sections, tmp_path):
    with pytest.raises(RecipeError, match=r"model\.config does not make a rezero_resnet config: (?s:.*)block is 'x'"):
        run(load_recipe(sections, ["model.config.block=x"]))
    with pytest.raises(RecipeError, match=r"gradient_checkpointing: a rezero_resnet .* has no layers that could be"):
        run(load_recipe(sections, ["training.gradient_checkpointing=true"]))
    run(load_recipe(sections, ["training.steps=1", "evaluation.every=null"]))
    start = sections | {"model": {"model_type": "resnet", "init_from": str(tmp_path / "run")}}
    with pytest.raises(RecipeError, match=r"model\.model_type is resnet, but .* is a rezero_resnet"):
        run(load_recipe(start, ["training.overwrite=true"]))


def test_residual_weights_have_their_own_rate():
    from seqzoo.modeling.rezero.fully_connected_rezero import DeepFullyConnected

    model = DeepFullyConnected(4, 2, width=4, depth=100)

    def rate(**options):
        return new_optimizer(model, TrainingSection(steps=1, lr=0.1, **options)).param_groups[-1]["lr"]

    assert rate() == pytest.approx(0.01)
    assert rate(residual_lr=0.05) == 0.05
    assert rate(optimizer="sgd") == 0.1
    assert rate(optimizer="sgd", residual_lr=0.2) == 0.2
