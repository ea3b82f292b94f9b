"""seqzoo: a Hugging Face-native model zoo for sequence transfer learning.

`import seqzoo` is all it takes for `AutoModelForCausalLM.from_pretrained(...)` and its siblings to know the models of
the zoo. It costs nothing by itself: registration waits until transformers' Auto classes are imported, so that commands
and data tools that need no model never import torch. Classes, ops and tools are there by name, imported when asked for:
`from seqzoo import DecayFastWeightGPT2LMHeadModel`. `seqzoo.list_models()` tells what the zoo offers.
"""

import sys
from importlib import abc, import_module, util
from pathlib import Path


__version__ = "0.1.0"

# model_type -> (config class, {Auto class: model class}), defined in
# seqzoo.modeling.<model_type>.configuration_<model_type> and .modeling_<model_type>.
MODELS = {
    "decay_fast_weight_gpt2": (
        "DecayFastWeightGPT2Config",
        {
            "AutoModel": "DecayFastWeightGPT2Model",
            "AutoModelForCausalLM": "DecayFastWeightGPT2LMHeadModel",
            "AutoModelForSequenceClassification": "DecayFastWeightGPT2ForSequenceClassification",
        },
    ),
    "nes_score": ("NESScoreConfig", {"AutoModel": "NESScoreModel"}),
    "nes_performance": ("NESPerformanceConfig", {"AutoModel": "NESPerformanceModel"}),
    "rezero_resnet": (
        "ReZeroResNetConfig",
        {
            "AutoModel": "ReZeroResNetModel",
            "AutoModelForImageClassification": "ReZeroResNetForImageClassification",
        },
    ),
    "rezero_transformer": (
        "ReZeroTransformerConfig",
        {
            "AutoModel": "ReZeroTransformerModel",
            "AutoModelForCausalLM": "ReZeroTransformerForCausalLM",
            "AutoModelForMaskedLM": "ReZeroTransformerForMaskedLM",
            "AutoModelForSequenceClassification": "ReZeroTransformerForSequenceClassification",
            "AutoModelForSeq2SeqLM": "ReZeroTransformerForConditionalGeneration",
        },
    ),
}

# What else `from seqzoo import name` gives -> where it is defined.
OTHER_NAMES = {
    "DecayFastWeightCache": "modeling.decay_fast_weight_gpt2.cache_decay_fast_weight_gpt2",
    "DeepFullyConnected": "modeling.rezero.fully_connected_rezero",
    "RZTXDecoderLayer": "modeling.rezero.layers_rezero",
    "RZTXEncoderLayer": "modeling.rezero.layers_rezero",
    "decaying_fast_weights": "kernels.decaying_fast_weights",
    "decaying_fast_weights_step": "kernels.decaying_fast_weights",
    "delta_fast_weights": "kernels.delta_fast_weights",
    "list_models": "trainers.catalogue",
    "parameter_groups": "trainers.parameter_groups",
    "rezero": "modeling.rezero.branches_rezero",
}

# model_type -> the image processors of transformers that it takes, one a backend.
IMAGE_PROCESSORS = {"rezero_resnet": {"torchvision": "ViTImageProcessor", "pil": "ViTImageProcessorPil"}}

if Path(__file__).with_name("modeling").is_file():
    raise ImportError(
        f"the folders in {Path(__file__).parent} should be symbolic links but are text files: git checked them out "
        "without support for links. On Windows switch on developer mode (or use WSL); then run "
        "`git config core.symlinks true` and `git checkout -- src`."
    )


def __getattr__(name: str):
    if name in OTHER_NAMES:
        return getattr(import_module(f"{__name__}.{OTHER_NAMES[name]}"), name)
    for model_type, (config_name, model_names) in MODELS.items():
        if name == config_name:
            return getattr(import_module(_module("configuration", model_type)), name)
        if name in model_names.values():
            return getattr(import_module(_module("modeling", model_type)), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    classes = [name for config_name, models in MODELS.values() for name in (config_name, *models.values())]
    return sorted({*globals(), *OTHER_NAMES, *classes})


def register() -> None:
    """Registers every model with the Auto classes now, rather than when transformers imports them."""
    for model_type in MODELS:
        import_module(_module("modeling", model_type))


def _module(kind: str, model_type: str) -> str:
    return f"{__name__}.modeling.{model_type}.{kind}_{model_type}"


def _register_config(model_type: str) -> None:
    from transformers import AutoConfig

    config_class = getattr(sys.modules[_module("configuration", model_type)], MODELS[model_type][0])
    AutoConfig.register(model_type, config_class, exist_ok=True)


class _ModelClasses(dict):
    """Config class -> model class, or its (module, name) until somebody asks: model files import the Auto classes."""

    def __getitem__(self, config_class):
        value = super().__getitem__(config_class)
        if isinstance(value, tuple) and isinstance(value[0], str):
            value = self[config_class] = getattr(import_module(value[0]), value[1])
        return value

    def values(self):
        return [self[key] for key in self]

    def items(self):
        return [(key, self[key]) for key in self]


def _register_models() -> None:
    """Registers without importing a model file: that may be what is being imported, or GPT-2, which it builds on."""
    auto = sys.modules["transformers.models.auto.modeling_auto"]
    for model_type, (config_name, model_names) in MODELS.items():
        config_class = getattr(import_module(_module("configuration", model_type)), config_name)
        for auto_name, model_name in model_names.items():
            mapping = getattr(auto, auto_name)._model_mapping
            mapping._extra_content = _ModelClasses(mapping._extra_content)
            mapping._extra_content[config_class] = _module("modeling", model_type), model_name


def _register_image_processors() -> None:
    """By their names, which the mapping resolves when somebody asks."""
    mapping = sys.modules["transformers.models.auto.image_processing_auto"].IMAGE_PROCESSOR_MAPPING
    for model_type, processors in IMAGE_PROCESSORS.items():
        config_class = getattr(import_module(_module("configuration", model_type)), MODELS[model_type][0])
        mapping._extra_content[config_class] = processors


class _AfterImport(abc.MetaPathFinder):
    """Calls `actions[name]()` once, right after the module `name` has been imported by anybody."""

    def __init__(self, actions):
        self.actions = actions

    def find_spec(self, name, path=None, target=None):
        action = self.actions.pop(name, None)  # popped first: the search below comes through here again
        spec = util.find_spec(name) if action else None
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                action()

            spec.loader.exec_module = exec_module
        return spec


def _register_when_imported() -> None:
    """Configs register right after their own module, which is imported right after the config classes' table is;
    models right after the Auto classes are imported."""
    actions = {}
    for model_type in MODELS:
        actions[_module("configuration", model_type)] = lambda name=model_type: _register_config(name)
    sys.meta_path.insert(0, _AfterImport(actions))

    def import_configs():
        for model_type in MODELS:
            import_module(_module("configuration", model_type))

    kinds = {
        "configuration": import_configs,
        "modeling": _register_models,
        "image_processing": _register_image_processors,
    }
    for kind, action in kinds.items():
        module = f"transformers.models.auto.{kind}_auto"
        if module in sys.modules:
            action()
        else:
            actions[module] = action


_register_when_imported()
