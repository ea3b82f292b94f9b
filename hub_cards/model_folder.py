"""What is known of a model folder without torch or transformers."""

import json
from pathlib import Path
from typing import Any


# Of weights that are exported, unless the exporter says otherwise.
WEIGHTS_LICENSE = "apache-2.0"


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` of a model folder says.

    Raises:
        `FileNotFoundError`: there is none.
        `ValueError`: it is damaged, or not the config of a model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: name a folder that training or save_pretrained wrote.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): write the model folder again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not the config of a model: write the model folder again.")
    return config
