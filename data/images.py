"""Labelled images: a source becomes arrays to train on and arrays held out, and these an endless stream of batches.

[`load_images`] reads one of

- `digits`: the 1,797 handwritten digits that scikit-learn brings along (8x8, as RGB);
- a folder or `.zip` of image files, `train/<class>/*.png` and `test/<class>/*.png`, or `<class>/*.png` alone; classes
  in the order of their names; what is hidden (a leading dot) is passed over;
- a folder of CIFAR-10's binary version (`data_batch_1.bin`, ...). The version for Python is pickles and is refused;
- a dataset on the Hub, or a folder that the datasets library wrote, with one image and one label column.

All images are in memory, as uint8. Nothing is downloaded but a Hub dataset that was named.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np


DIGITS = "digits"
DIGITS_LICENSE = "cc-by-4.0"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
_HELD_OUT_NAMES = ("validation", "valid", "val", "test")
_CIFAR_ROW = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Args:
        images (`np.ndarray`):
            uint8 [image, channel, height, width], RGB.
        labels (`np.ndarray`):
            int64 [image], indices of classes.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray) -> "LabelledImages":
        return LabelledImages(self.images[rows], self.labels[rows])

    @property
    def sha256(self) -> str:
        """Of the shape, all pixels and all labels."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        for array in (self.images, self.labels):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageCorpus:
    """Images to train on and images held out.

    Args:
        train, validation ([`LabelledImages`]):
            The two parts.
        classes (`tuple[str, ...]`):
            Names of the labels.
        source (`str`):
            What was read, as it was named.
        license (`str`, *optional*):
            Where the source states it.
        dataset (`str`, *optional*):
            Its id on the Hub, where it comes from there.
    """

    train: LabelledImages
    validation: LabelledImages
    classes: tuple[str, ...]
    source: str
    license: str | None = None
    dataset: str | None = None

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Of each channel of the training part, for values from 0 to 1; a channel that never changes has std 1."""
        counts = np.stack(
            [np.bincount(channel.ravel(), minlength=256) for channel in self.train.images.swapaxes(0, 1)]
        )
        shares, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
        mean = shares @ values
        std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0))
        return mean.tolist(), np.where(std < 1e-6, 1.0, std).tolist()


def load_images(
    source: str,
    *,
    name: str | None = None,
    split: str = "train",
    validation: str | None = None,
    validation_fraction: float = 0.2,
    image_size: int | None = None,
) -> ImageCorpus:
    """Read a source and hold a part of it out.

    Args:
        source (`str`):
            `digits`, a folder, a `.zip`, or a Hub dataset.
        name (`str`, *optional*):
            Hub: name of the dataset's configuration.
        split (`str`, *optional*, defaults to `"train"`):
            Hub: the split to train on.
        validation (`str`, *optional*):
            Hub: the held-out split. Folders and archives name theirs themselves.
        validation_fraction (`float`, *optional*, defaults to 0.2):
            Of a source without a held-out part: the share that is held out, drawn with a fixed seed.
        image_size (`int`, *optional*):
            Scale image files to this height and width. Without it all have to have one size.

    Raises:
        `ImportError`: `digits` without scikit-learn, or image files without Pillow.
        `FileNotFoundError`: there is no such source, or a folder of CIFAR-10 lacks some of its files.
        `ValueError`: pickles, no classes or no one folder of them, classes of one part that the other lacks, images
            that are damaged, of different sizes or of more than 8 bits, or images without a class.
    """
    path = Path(source)
    license, dataset = None, None
    if source == DIGITS:
        parts, classes, license = [_digits()], tuple("0123456789"), DIGITS_LICENSE
    elif path.suffix == ".zip" and path.is_file():
        parts, classes = _read_archive(path, image_size)
    elif path.is_dir() and any(path.glob("data_batch_*")):
        parts, classes = _read_cifar(path)
    elif path.is_dir() and not _is_saved_dataset(path):
        parts, classes = _read_folder(path, image_size)
    elif path.is_file():
        raise ValueError(f"{source} is neither a folder of images nor a .zip of one")
    elif not path.exists() and (path.suffix == ".zip" or source.startswith(("/", ".", "~"))):
        raise FileNotFoundError(f"there is no {source}")
    else:
        parts, classes = _read_dataset(source, name, split, validation, image_size)
        dataset = None if path.exists() else source
    height, width = parts[0].images.shape[2:]
    if image_size is not None and (height, width) != (image_size, image_size):
        raise ValueError(
            f"the images of {source} are {height}x{width}: only image files are scaled; remove image_size"
        )
    _one_size([part.images.shape[2:] for part in parts], source)
    if len(parts) == 1:
        parts = _hold_out(parts[0], validation_fraction)
    return ImageCorpus(*parts, classes, source, license, dataset)


class ImageBatches:
    """An endless stream of batches that can be stopped anywhere.

    The order of an epoch is a permutation drawn from `(seed, epoch)`, the changes of a batch from `(seed, epoch,
    offset)`. Images that do not fill a last batch wait for another epoch.

    Args:
        data ([`LabelledImages`]):
            What to hand out.
        mean, std (`Sequence[float]`):
            Of each channel, for values from 0 to 1.
        batch_size (`int`):
            Images of a batch over all processes.
        seed (`int`):
            Of order and changes.
        flip (`bool`):
            Mirror half of the images.
        pad (`int`):
            Shift each image by up to so many pixels: a crop of its own size out of the image with a black border.

    Raises:
        `ValueError`: fewer images than a batch has.
    """

    def __init__(
        self,
        data: LabelledImages,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        batch_size: int,
        seed: int = 0,
        flip: bool = False,
        pad: int = 0,
    ):
        if len(data) < batch_size:
            raise ValueError(f"a batch of {batch_size} needs as many images, but there are {len(data)}")
        self.data = data
        self.mean = mean
        self.std = std
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.pad = pad
        self.fingerprint = data.sha256
        self.epoch = 0
        self.offset = 0

    def __iter__(self) -> "ImageBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self.offset + self.batch_size > len(self.data):
            self.epoch, self.offset = self.epoch + 1, 0
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.data))
        rows = self.data[order[self.offset : self.offset + self.batch_size]]
        images = self._changed(rows.images, np.random.default_rng((self.seed, self.epoch, self.offset)))
        self.offset += self.batch_size
        return {"pixel_values": normalised(images, self.mean, self.std), "labels": rows.labels}

    def _changed(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.flip:
            mirrored = rng.random(len(images)) < 0.5
            images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
        if self.pad:
            height, width = images.shape[2:]
            bordered = np.pad(images, ((0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad)))
            windows = np.lib.stride_tricks.sliding_window_view(bordered, (height, width), axis=(2, 3))
            top, left = rng.integers(0, 2 * self.pad + 1, (2, len(images)))
            images = windows[np.arange(len(images)), :, top, left]
        return images

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "offset": self.offset, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken.

        Raises:
            `ValueError`: it belongs to other images.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                "the training images are not those of the checkpoint; restore them, or start another run in another "
                "folder"
            )
        self.epoch, self.offset = state["epoch"], state["offset"]


def normalised(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What an image processor makes of images that have its size already, float32 of the same shape."""
    mean, std = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (mean, std))
    return (images.astype(np.float32) / 255 - mean) / std


def _digits() -> LabelledImages:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the embedded digits need scikit-learn: pip install 'seqzoo[images]'") from error
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return LabelledImages(np.repeat(grey[:, None], 3, axis=1), digits.target.astype(np.int64))


def _hold_out(data: LabelledImages, fraction: float) -> list[LabelledImages]:
    order = np.random.default_rng(0).permutation(len(data))
    count = max(1, round(fraction * len(data)))
    if count >= len(data):
        raise ValueError(f"holding {fraction:g} of {len(data)} images out would leave none to train on")
    return [data[np.sort(order[count:])], data[np.sort(order[:count])]]


def _read_archive(path: Path, size: int | None) -> tuple[list[LabelledImages], tuple[str, ...]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
            return _read_files(dict.fromkeys(names, archive.open), str(path), size)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no .zip or is damaged ({error}); fetch it again") from error


def _read_folder(path: Path, size: int | None) -> tuple[list[LabelledImages], tuple[str, ...]]:
    names = [PurePosixPath(file.relative_to(path).as_posix()) for file in path.rglob("*") if file.is_file()]
    return _read_files(dict.fromkeys(names, lambda name: (path / name).open("rb")), str(path), size)


def _read_files(
    files: dict[PurePosixPath, Any], source: str, size: int | None
) -> tuple[list[LabelledImages], tuple[str, ...]]:
    """Images by the names of their folders; `files` opens each by its name."""
    found: dict[PurePosixPath, dict[str, list[PurePosixPath]]] = {}
    for name in sorted(files):
        hidden = any(part.startswith(".") for part in name.parts)
        if name.suffix.lower() in _SUFFIXES and len(name.parts) >= 2 and not hidden:
            found.setdefault(name.parent.parent, {}).setdefault(name.parent.name, []).append(name)
    to_train = [part for part in found if part.name not in _HELD_OUT_NAMES]
    if not to_train:
        raise ValueError(f"{source} has no images in folders named by their class, such as train/cat/1.png")
    first = next((kind for kind in _HELD_OUT_NAMES if any(part.name == kind for part in found)), None)
    to_hold_out = [part for part in found if part.name == first]
    for parts in (to_train, to_hold_out):
        if len(parts) > 1:
            raise ValueError(
                f"{source} has folders of classes in {', '.join(str(part) for part in parts)}: keep one of them"
            )
    train, held_out = to_train[0], to_hold_out[0] if to_hold_out else None
    classes = tuple(found[train])
    if held_out is not None and not set(found[held_out]) <= set(classes):
        unknown = ", ".join(sorted(set(found[held_out]) - set(classes)))
        raise ValueError(f"{source}: {held_out} has the classes {unknown}, which {train} lacks")
    parts = []
    for part in [train] if held_out is None else [train, held_out]:
        names = [(name, classes.index(label)) for label, names in found[part].items() for name in names]
        images = _stack([_decode(files[name](str(name)), f"{source}, {name}", size) for name, _ in names], source)
        parts.append(LabelledImages(images, np.array([label for _, label in names], dtype=np.int64)))
    return parts, classes


def _decode(file: Any, name: str, size: int | None) -> np.ndarray:
    """An image file as uint8 [channel, height, width]."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("image files need Pillow: pip install 'seqzoo[images]'") from error
    with file:
        try:
            return _pixels(Image.open(io.BytesIO(file.read())), size)
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{name} is no image or is damaged ({error}); remove it or fetch it again") from error
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _pixels(image: Any, size: int | None) -> np.ndarray:
    """A picture of Pillow's as uint8 [channel, height, width], turned as its EXIF says, which pipelines do too, and
    scaled as an image processor does by default."""
    from PIL import ImageOps

    if image.mode[0] in "IF":  # all above 255 would become white
        raise ValueError(f"pixels of more than 8 bits (mode {image.mode}): scale them to 8 and save them again")
    try:
        image = ImageOps.exif_transpose(image).convert("RGB")
    except (struct.error, TypeError) as error:  # the other tags are written anew
        raise ValueError(f"its EXIF data is damaged ({error}): save it without") from error
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), resample=2)  # bilinear
    return np.asarray(image).transpose(2, 0, 1)


def _stack(images: list[np.ndarray], source: str) -> np.ndarray:
    _one_size([image.shape[1:] for image in images], source)
    return np.stack(images)


def _one_size(shapes: Sequence[tuple[int, ...]], source: str) -> None:
    sizes = set(shapes)
    if len(sizes) > 1:
        some = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        raise ValueError(f"{source} has images of different sizes ({some}, ...); set image_size to scale them to one")


def _read_cifar(path: Path) -> tuple[list[LabelledImages], tuple[str, ...]]:
    """CIFAR-10's binary version: rows of a label and the red, green and blue planes."""
    batches = [path / f"data_batch_{i}.bin" for i in range(1, 6)]
    test, names = path / "test_batch.bin", path / "batches.meta.txt"
    if not any(path.glob("data_batch_*.bin")):
        raise ValueError(
            f"{path} holds CIFAR-10 as Python pickles, which are never loaded: fetch the binary version "
            "(cifar-10-binary.tar.gz), which has the same pixels"
        )
    missing = [file.name for file in (*batches, test, names) if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{path} lacks {', '.join(missing)}; unpack all of cifar-10-binary.tar.gz")
    classes = tuple(names.read_text(encoding="utf-8").split())
    return [_cifar_rows(batches, len(classes)), _cifar_rows([test], len(classes))], classes


def _cifar_rows(files: list[Path], classes: int) -> LabelledImages:
    rows = []
    for file in files:
        content = np.fromfile(file, dtype=np.uint8)
        if content.size == 0 or content.size % _CIFAR_ROW or content[::_CIFAR_ROW].max() >= classes:
            raise ValueError(f"{file} is not a batch of CIFAR-10's binary version; fetch it again")
        rows.append(content.reshape(-1, _CIFAR_ROW))
    rows = np.concatenate(rows)
    return LabelledImages(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64))


def _is_saved_dataset(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _read_dataset(
    source: str, name: str | None, split: str, validation: str | None, size: int | None
) -> tuple[list[LabelledImages], tuple[str, ...]]:
    """A dataset of the datasets library, on the Hub or saved to disk."""
    from datasets import ClassLabel, DatasetDict, Image, load_dataset, load_from_disk

    if Path(source).exists():
        saved = load_from_disk(source)
        splits = saved if isinstance(saved, DatasetDict) else {split: saved}
    else:
        try:
            splits = {part: load_dataset(source, name, split=part) for part in (split, validation) if part}
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{source!r} is neither a folder here (working directory {Path.cwd()}) nor a dataset that the Hub "
                f"gives: {error}"
            ) from error
    parts, classes = [], []
    for part in (split, validation):
        if part is None:
            continue
        if part not in splits:
            raise ValueError(f"{source} has no split {part!r}; it has {', '.join(splits)}")
        features = splits[part].features
        columns = [
            [key for key, feature in features.items() if isinstance(feature, kind)] for kind in (Image, ClassLabel)
        ]
        if any(len(found) != 1 for found in columns):
            raise ValueError(
                f"{source} has {len(columns[0])} image and {len(columns[1])} label columns, but takes one of each"
            )
        (image,), (label,) = columns
        classes.append(tuple(features[label].names))
        rows, labels = splits[part][image], splits[part][label]
        if any(row is None for row in rows) or any(row is None or row < 0 for row in labels):
            raise ValueError(f"{source}: {part} has rows without an image or a label; choose a labelled split")
        pixels = [_pixels(row, size) for row in rows]
        parts.append(LabelledImages(_stack(pixels, source), np.array(labels, dtype=np.int64)))
    if len(set(classes)) > 1:
        raise ValueError(f"{source}: the classes of {validation} are not those of {split}, or in another order")
    return parts, classes[0]
