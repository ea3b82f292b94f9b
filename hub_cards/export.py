"""Export: a model folder becomes a repository that plain transformers loads, with its code, weights and card."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from seqzoo import MODELS, register
from seqzoo.hub_cards.card import figures, model_card, read_metrics
from seqzoo.hub_cards.flatten import flatten
from seqzoo.hub_cards.model_folder import WEIGHTS_LICENSE, read_config
from seqzoo.hub_cards.new_folder import check_free, new_folder


def export(model_dir: str | Path, out_dir: str | Path, *, license: str = WEIGHTS_LICENSE) -> list[Path]:
    """Makes a self-contained repository out of a model folder.

    `AutoModel...from_pretrained(out_dir, trust_remote_code=True)` then works where seqzoo is not installed. A model of
    the transformers library, such as a GPT-2 that a recipe trained, needs no code and gets none. The folder appears
    under its name only when it is complete.

    Args:
        model_dir (`str` or `Path`):
            A folder that a training run or `save_pretrained` left: `config.json`, safetensors weights and, where the
            model has one, tokenizer or image processor.
            `metrics.json` and `recipe.yaml`, where present, go into the card.
        out_dir (`str` or `Path`):
            A folder that does not exist yet or is empty. Its name becomes the title of the card.
        license (`str`, *optional*, defaults to `"apache-2.0"`):
            Licence of the weights, by its id on the Hub.

    Returns:
        `list[Path]`: the files of the repository, sorted by name.

    Raises:
        `FileNotFoundError`: `model_dir` lacks its config, weights or tokenizer.
        `FileExistsError`: `out_dir` holds something.
        `ValueError`: the model's type is unknown, or a file of `model_dir` is damaged or does not fit.
    """
    model_dir, out_dir = Path(model_dir), Path(out_dir).absolute()
    check_free(out_dir)

    config = read_config(model_dir)
    config_class = _config_class(model_dir, config.get("model_type"))
    auto_classes = _auto_classes(config_class)
    model = _load_model(model_dir, config.get("architectures") or [], auto_classes)
    processor = _load_processor(model_dir, text="vocab_size" in config)
    metrics_path, recipe_path = model_dir / "metrics.json", model_dir / "recipe.yaml"
    metrics = read_metrics(metrics_path, config_class.model_type) if metrics_path.exists() else None
    recipe = recipe_path.read_text(encoding="utf-8") if recipe_path.exists() else None

    def remote(cls: type) -> str:
        return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"

    of_zoo = config_class.model_type in MODELS
    if of_zoo:
        model.config.auto_map = {"AutoConfig": remote(config_class)} | {
            name: remote(model_class) for name, model_class in auto_classes.items()
        }
    card = model_card(model, out_dir.name, license=license, metrics=metrics, recipe=recipe)

    with new_folder(out_dir) as folder:
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
        if of_zoo:
            flatten([cls.__module__ for cls in (config_class, *auto_classes.values())], folder)
        card.save(folder / "README.md")
        for figure in figures(card):
            (folder / figure.name).write_bytes(figure.read_bytes())
    return sorted(out_dir.iterdir())


def _config_class(model_dir: Path, model_type: str | None) -> type[PreTrainedConfig]:
    """The config class of a model type of the zoo or of transformers."""
    register()
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{model_dir} holds a {model_type!r}, a model_type that neither seqzoo nor transformers knows."
        )
    return CONFIG_MAPPING[model_type]


def _auto_classes(config_class: type[PreTrainedConfig]) -> dict[str, type[PreTrainedModel]]:
    """Name of each Auto class that the config class is registered with -> the model class that it loads."""
    return {
        name: auto_class._model_mapping[config_class]
        for name, auto_class in vars(modeling_auto).items()
        if name.startswith("AutoModel") and config_class in auto_class._model_mapping
    }


def _load_model(
    model_dir: Path, architectures: list[str], auto_classes: dict[str, type[PreTrainedModel]]
) -> PreTrainedModel:
    """The model of `model_dir`, in the class and the dtype that it was saved in, with every weight from the file."""
    weights = sorted(model_dir.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(
            f"{model_dir} has no model.safetensors: save the model there with save_pretrained (pickled weights are "
            "never read)."
        )
    for path in weights:
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or cut off ({error}): copy or save it again.") from error

    model_class = next((cls for cls in auto_classes.values() if [cls.__name__] == architectures), None)
    if model_class is None:
        raise ValueError(
            f"{model_dir / 'config.json'} names the architectures {architectures}, which are not one model registered "
            "with an Auto class: save the model again with save_pretrained."
        )
    model, info = model_class.from_pretrained(model_dir, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(
            f"The weights of {model_dir} lack {', '.join(sorted(info['missing_keys']))}: save them again."
        )
    return model


def _load_processor(model_dir: Path, *, text: bool) -> PreTrainedTokenizerBase | BaseImageProcessor | None:
    """The tokenizer or image processor beside the weights; a model of text has to have one."""
    if (model_dir / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(model_dir)
    if (model_dir / "preprocessor_config.json").is_file():
        return AutoImageProcessor.from_pretrained(model_dir)
    if text:
        raise FileNotFoundError(
            f"{model_dir} has no tokenizer, which pipelines need: save it there with tokenizer.save_pretrained."
        )
    return None
