"""The teacher: a softmax GPT-2 that is read and never changed.

It is no part of the run's state: checkpoints leave it out, and every process has a copy of its own.
"""

from safetensors import SafetensorError
from transformers import AutoConfig, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from seqzoo.data.text_tokenizer import load_tokenizer
from seqzoo.trainers.recipe import Recipe
from seqzoo.trainers.recipe_parsing import RecipeError


def load_teacher(recipe: Recipe, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    """`model.teacher` in float32 on the CPU, for evaluation alone.

    Raises:
        `RecipeError`: it is no GPT-2, or the student cannot learn from it by `training.objective`.
        `OSError`: there is none to load.
        `ValueError`: its weights are damaged or incomplete.
    """
    source = recipe.model.teacher
    config = AutoConfig.from_pretrained(source)
    if config.model_type != "gpt2":
        raise RecipeError(f"model.teacher must be a GPT-2, but {source} is a {config.model_type}")
    equal = {"vocab_size": "vocabulary"}
    if recipe.training.objective == "align":  # layer by layer, so these must be the same as well
        equal |= {"hidden_size": "width", "num_hidden_layers": "number of layers"}
    for name, what in equal.items():
        theirs, own = getattr(config, name), getattr(student.config, name)
        if theirs != own:
            raise RecipeError(f"the {what} of model.teacher {source} is {theirs}, but the model's is {own}")
    if recipe.data.sequence_length > config.n_positions:
        raise RecipeError(
            f"data.sequence_length is {recipe.data.sequence_length}, but model.teacher {source} has "
            f"{config.n_positions} positions; lower it"
        )
    if source not in (recipe.model.init_from, recipe.model.convert_gpt2):
        # Equal sizes do not make equal tokens.
        if load_tokenizer(source).get_vocab() != tokenizer.get_vocab():
            raise RecipeError(f"the tokenizer of model.teacher {source} has other tokens than this run's")
    try:
        teacher, loaded = GPT2LMHeadModel.from_pretrained(source, use_safetensors=True, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"the weights in {source} are damaged or incomplete ({error}); fetch them again") from error
    if loaded["missing_keys"]:
        raise ValueError(f"model.teacher {source} lacks {', '.join(sorted(loaded['missing_keys']))}")
    return teacher.float().eval().requires_grad_(False)
