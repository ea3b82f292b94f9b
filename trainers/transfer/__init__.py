"""How to adapt a trained model: what a converted model can learn from the one that it was converted from.

What belongs here: objectives with a teacher, and ways to train a part of the weights. What does not: the conversion
itself (`modeling/<model_type>/convert_*.py`).

    teacher.py        the frozen GPT-2 to learn from
    alignment.py      `training.objective: align`, layer by layer
    distillation.py   `training.objective: distill`, on predictions
    lora.py           `training.lora_rank`: low-rank updates
"""
