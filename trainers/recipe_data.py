"""The section `data` of a recipe, which depends on its task."""

import typing
from dataclasses import dataclass

from seqzoo.trainers.recipe_parsing import RecipeError


@dataclass
class DataSection:
    """The text: what to read, what to hold out, how to pack it.

    Args:
        source (`str` or `list[str]`, defaults to `embedded`):
            `embedded` (the standard library's documentation), local files (plain text, `.jsonl`, `.parquet`, also as
            `.gz`, `.xz`, `.zip`; a plain text may be cut, `enwik8[:90%]` or `enwik8[0:4500000]`, in bytes), or a
            dataset on the Hub.
        name (`str`, *optional*):
            Hub: name of the dataset's configuration.
        split (`str`, defaults to `train`):
            Hub: the split to train on.
        validation (`str` or `list[str]`, *optional*):
            The held-out text: files beside files, the name of a split beside a Hub dataset.
        validation_fraction (`float`, defaults to 0.05):
            Without `validation`: the part of the documents to hold out, chosen by their hash; of a single document,
            its end.
        text_column (`str`, defaults to `text`):
            Where jsonl, parquet and Hub rows keep their text.
        rows (`documents` or `running_text`, defaults to `documents`):
            `running_text`: rows are the lines of one text (WikiText), no end-of-text token goes between them.
        license (`str`, *optional*):
            For the card; known by itself for `embedded`.
        sequence_length (`int`, defaults to 128):
            Tokens of a packed sequence.
        packing (`concatenate` or `separate`, defaults to `concatenate`):
            `separate`: a document sees nothing of its neighbours in the same sequence (`position_ids` restart).
        shuffle (`bool`, defaults to true):
            A new order of the sequences every epoch.
        num_proc (`int`, *optional*):
            Processes that tokenize; not while streaming.
        streaming (`bool`, defaults to false):
            Read files or a Hub dataset while training on them, in bounded memory, and write nothing of them down: for
            text that is larger than memory or disk. `validation` must be named; `evaluation.max_tokens` of it are
            read. Plain text is read line by line with `rows: running_text`, else file by file. Every process reads
            and tokenizes all of the text. `tokenizer.vocab_size` learns from the first 100,000 rows.
        shuffle_buffer (`int`, defaults to 1000):
            Streaming: so many sequences are read and permuted together, then the next ones. The order of the text is
            kept otherwise, so sorted text wants more.
    """

    source: str | list[str] = "embedded"
    name: str | None = None
    split: str = "train"
    validation: str | list[str] | None = None
    validation_fraction: float = 0.05
    text_column: str = "text"
    rows: typing.Literal["documents", "running_text"] = "documents"
    license: str | None = None
    sequence_length: int = 128
    packing: typing.Literal["concatenate", "separate"] = "concatenate"
    shuffle: bool = True
    num_proc: int | None = None
    streaming: bool = False
    shuffle_buffer: int = 1000

    def check(self) -> None:
        """Raises `RecipeError` for values that do not fit each other."""
        if not 0 < self.validation_fraction < 1:
            raise RecipeError(f"data.validation_fraction is {self.validation_fraction}, but must lie between 0 and 1")
        if self.sequence_length < 2:
            raise RecipeError(f"data.sequence_length is {self.sequence_length}, but must be 2 or more")
        if not self.streaming:
            return
        if self.source == "embedded":
            raise RecipeError("data.streaming needs files or a Hub dataset as data.source, not the embedded text")
        if self.validation is None:
            raise RecipeError(
                "data.streaming cannot hold out a part of a text that is never there as a whole; set data.validation "
                "to other files, or beside a Hub dataset to the name of a split"
            )
        if self.num_proc:
            raise RecipeError("data.num_proc has no meaning with data.streaming; remove it")


@dataclass
class NESDataSection:
    """Of the tasks on NES scores: the songs, and the windows that they are cut into.

    Args:
        source (`str`, defaults to `nesmdb24_exprsco.tar.gz`):
            The published archive, a folder with songs in any format in folders named `train`, `valid` and `test`, a
            copy that `seqzoo nes dataset` made, or the id of one on the Hub.
        sequence_length (`int`, defaults to 256):
            Steps of 1/24 s in a window. Held-out songs are read whole.
        verify (`bool`, defaults to true):
            Refuse an archive that is not a published one by its SHA-256.
        license (`str`, *optional*):
            For the card. Those who publish NES-MDB state none for the music.
    """

    source: str = "nesmdb24_exprsco.tar.gz"
    sequence_length: int = 256
    verify: bool = True
    license: str | None = None

    def check(self) -> None:
        """Any of these values fits the others."""


@dataclass
class ImageDataSection:
    """Labelled images (task `image_classification`): what to read, what to hold out, how to vary it.

    Args:
        source (`str`, defaults to `digits`):
            `digits` (of scikit-learn), a folder or `.zip` of images in folders named by their class, a folder of
            CIFAR-10's binary version, or a dataset on the Hub: see `seqzoo.data.images`.
        name (`str`, *optional*), split (`str`, defaults to `train`), validation (`str`, *optional*):
            Hub: name of the dataset's configuration, the split to train on, and the held-out one.
        validation_fraction (`float`, defaults to 0.2):
            The part to hold out of a source that has no held-out images.
        classes (`int`, defaults to 10):
            How many there are; a source that has more or fewer is refused.
        image_size (`int`, *optional*):
            Scale image files to so many pixels, in height and width; null takes them as they are, if all have one
            size.
        flip (`bool`, defaults to false), pad (`int`, defaults to 0):
            Of the training images: mirror half of them; shift each by up to so many pixels, with a black border.
        license (`str`, *optional*):
            For the card; known by itself for `digits`.
    """

    source: str = "digits"
    name: str | None = None
    split: str = "train"
    validation: str | None = None
    validation_fraction: float = 0.2
    classes: int = 10
    image_size: int | None = None
    flip: bool = False
    pad: int = 0
    license: str | None = None

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            `RecipeError`: it names the key and the remedy.
        """
        if not 0 < self.validation_fraction < 1:
            raise RecipeError(f"data.validation_fraction is {self.validation_fraction}, but must lie between 0 and 1")
        for key, least in (("classes", 2), ("image_size", 1), ("pad", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise RecipeError(f"data.{key} is {value}, but must be {least} or more")


# What `data` holds, by task: a task is the name of a module in this room, which seqzoo.trainers.run describes.
DATA_SECTIONS: dict[str, type] = {
    "causal_lm": DataSection,
    "image_classification": ImageDataSection,
    "nes_composition": NESDataSection,
    "nes_performance": NESDataSection,
}
