r"""Low-rank updates (LoRA, Hu et al. 2021, arXiv 2106.09685) through peft: W + alpha / rank * B A, with W as given.

By default every matrix of GPT-2's blocks (a `Conv1D`) gets one. What else stands in attention's place (the gates of a
memory) is new in a converted model, so it learns in full; all the rest is frozen. The updates live inside the model
while it trains, so that checkpoints hold them like any other weight; in the end they become part of W.
"""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seqzoo.trainers.recipe import TrainingSection
from seqzoo.trainers.recipe_parsing import RecipeError


def add_lora(model: PreTrainedModel, training: TrainingSection) -> None:
    """Put updates that change nothing yet into `model`, and freeze the rest but for the gates.

    Raises:
        `ImportError`: peft is not installed.
        `RecipeError`: `training.lora_targets` names a module that the model does not have, or is needed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("training.lora_rank needs peft: pip install 'seqzoo[lora]'") from error
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not model.get_output_embeddings()
    }
    known = {_last(name) for name in modules}
    targets = set(training.lora_targets or (_last(name) for name, module in modules.items() if type(module) is Conv1D))
    if not targets <= known or not targets:
        wrong = ", ".join(sorted(targets - known)) or "null"
        raise RecipeError(
            f"training.lora_targets is {wrong}; a {model.config.model_type} has {', '.join(sorted(known))}"
        )
    smallest = min(min(module.weight.shape) for name, module in modules.items() if _last(name) in targets)
    if training.lora_rank >= smallest:
        raise RecipeError(
            f"training.lora_rank is {training.lora_rank}, no less than the smaller side ({smallest}) of a matrix that "
            "it updates; lower it, or train in full"
        )
    in_full = [
        parameter
        for block in getattr(model.base_model, "h", ())
        for name, module in block.attn.named_modules()
        if not isinstance(module, Conv1D) and _last(name) not in targets
        for parameter in module.parameters(recurse=False)
    ]
    config = LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        target_modules=targets,
        fan_in_fan_out=True,  # how a Conv1D keeps its weight; peft turns it off for a Linear by itself
    )
    inject_adapter_in_model(config, model)
    for parameter in in_full:
        parameter.requires_grad_(True)


def merge_lora(model: PreTrainedModel) -> None:
    """Add the updates to their weights. The model then has the modules and names that it had before [`add_lora`]."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config


def _last(name: str) -> str:
    return name.rpartition(".")[2]
