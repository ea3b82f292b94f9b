import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers.image_utils import load_image

from seqzoo.data.images import ImageBatches, LabelledImages, load_images, normalised


def png(color, size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def sixteen_bits():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 30_000, dtype=np.uint16)).save(file, "PNG")
    return file.getvalue()


FILES = {
    "train/cat/1.png": png((255, 0, 0)),
    "train/cat/2.png": png((0, 255, 0)),
    "train/dog/1.png": png((0, 0, 255)),
    "test/dog/9.png": png((9, 9, 9)),
    "README.md": b"no image",
    "train/cat/.thumbnails/1.png": b"hidden",
    "__MACOSX/train/cat/._1.png": b"no image either",
}


def write_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"pets/{name}", content)
    return str(path)


def test_the_embedded_digits():
    corpus = load_images("digits", validation_fraction=0.25)
    assert corpus.train.images.shape == (1348, 3, 8, 8)
    assert corpus.validation.images.shape == (449, 3, 8, 8)
    assert corpus.train.images.dtype == np.uint8
    assert corpus.train.images.max() == 255
    assert corpus.classes == tuple("0123456789")
    assert np.bincount(corpus.train.labels, minlength=10).min() > 100
    assert load_images("digits", validation_fraction=0.25).train.sha256 == corpus.train.sha256


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"scikit-learn: pip install 'seqzoo\[images\]'"):
        load_images("digits")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_classes_are_folders_and_parts_are_folders_of_these(kind, tmp_path):
    source = write_folder(tmp_path / "pets", FILES) if kind == "folder" else write_zip(tmp_path / "pets.zip", FILES)
    corpus = load_images(source)
    assert corpus.classes == ("cat", "dog")
    assert corpus.train.labels.tolist() == [0, 0, 1]
    assert corpus.train.images[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert corpus.validation.labels.tolist() == [1]
    assert corpus.license is corpus.dataset is None


def test_a_folder_of_classes_alone_has_a_part_held_out(tmp_path):
    files = {f"{name}/{i}.png": png((i, 0, 0)) for name in ("a", "b") for i in range(5)}
    corpus = load_images(write_folder(tmp_path / "all", files), validation_fraction=0.3)
    assert (len(corpus.train), len(corpus.validation)) == (7, 3)
    assert sorted([*corpus.train.labels, *corpus.validation.labels]) == [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train/dog/2.png": b"not a picture"}, r"train/dog/2\.png is no image or is damaged"),
        ({"train/dog/2.png": png((0, 0, 0), (5, 4))}, r"different sizes \(4x4, 4x5"),
        ({"test/bird/1.png": png((0, 0, 0))}, "test has the classes bird, which train lacks"),
        ({"extra/cat/1.png": png((0, 0, 0))}, "has folders of classes in extra, train: keep one of them"),
        ({"old/test/cat/1.png": png((0, 0, 0))}, "has folders of classes in old/test, test: keep one of them"),
        ({"test/dog/9.png": png((0, 0, 0), (5, 5))}, r"different sizes \(4x4, 5x5"),
        ({"train/dog/2.png": sixteen_bits()}, r"train/dog/2\.png: pixels of more than 8 bits \(mode I;16\)"),
    ],
)
def test_what_cannot_be_learnt_from_is_named(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_images(write_folder(tmp_path / "pets", FILES | change))


def test_pictures_are_turned_as_pipelines_turn_them(tmp_path):
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        (tmp_path / str(orientation) / "cat").mkdir(parents=True)
        for name in ("1.png", "2.png"):
            picture.save(tmp_path / str(orientation) / "cat" / name, exif=exif)
        expected = np.asarray(load_image(str(tmp_path / str(orientation) / "cat" / "1.png"))).transpose(2, 0, 1)
        corpus = load_images(str(tmp_path / str(orientation)))
        assert np.array_equal(corpus.train.images[0], expected)
    exif[0x010E] = "a description"
    picture.save(tmp_path / "8" / "cat" / "3.jpg", exif=exif)
    content = (tmp_path / "8" / "cat" / "3.jpg").read_bytes()
    text, number = b"\x01\x0e\x00\x02", b"\x01\x03\x00\x02"  # the same as another tag, which is a number
    (tmp_path / "8" / "cat" / "3.jpg").write_bytes(content.replace(text, number))
    with pytest.raises(ValueError, match=r"cat/3\.jpg: its EXIF data is damaged .*: save it without"):
        load_images(str(tmp_path / "8"))


def test_a_damaged_archive_is_named(tmp_path):
    source = write_zip(tmp_path / "pets.zip", FILES)
    content = bytearray((tmp_path / "pets.zip").read_bytes())
    content[90] ^= 255  # a pixel of the first picture
    for damaged in (content, content[:100]):
        (tmp_path / "pets.zip").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"pets\.zip is no \.zip or is damaged"):
            load_images(source)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no images in folders named by their class"):
        load_images(write_folder(tmp_path / "none", {"README.md": b""}))


def test_a_source_that_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"there is no .*pets\.zip"):
        load_images(str(tmp_path / "pets.zip"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'cifar-10-batches-bin' is neither a folder here \(working"):
        load_images("cifar-10-batches-bin")
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(ValueError, match=r"notes\.txt is neither a folder of images nor a \.zip"):
        load_images(str(tmp_path / "notes.txt"))


def cifar_rows(labels):
    rng = np.random.default_rng(0)
    return b"".join(bytes([label]) + rng.integers(0, 256, 3072, dtype=np.uint8).tobytes() for label in labels)


def test_cifars_binary_version(tmp_path):
    files = {
        "data_batch_1.bin": cifar_rows([1, 0]),
        **{f"data_batch_{i}.bin": cifar_rows([2]) for i in range(2, 6)},
        "test_batch.bin": cifar_rows([0]),
        "batches.meta.txt": b"airplane\nautomobile\nbird\n\n",
    }
    corpus = load_images(write_folder(tmp_path / "cifar", files))
    assert corpus.classes == ("airplane", "automobile", "bird")
    assert corpus.train.labels.tolist() == [1, 0, 2, 2, 2, 2]
    first = np.random.default_rng(0).integers(0, 256, 3072, dtype=np.uint8)
    assert np.array_equal(corpus.train.images[0].ravel(), first)
    for content in (files["test_batch.bin"][:-1], cifar_rows([7])):
        write_folder(tmp_path / "cifar", {"test_batch.bin": content})
        with pytest.raises(ValueError, match=r"test_batch\.bin is not a batch"):
            load_images(str(tmp_path / "cifar"))


def test_a_part_of_cifars_binary_version_is_refused(tmp_path):
    source = write_folder(tmp_path / "cifar", {f"data_batch_{i}.bin": cifar_rows([0]) for i in (1, 2, 4)})
    with pytest.raises(FileNotFoundError, match=r"cifar lacks data_batch_3\.bin, data_batch_5\.bin, test_batch"):
        load_images(source)


def test_cifars_pickles_are_refused_unread(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    source = write_folder(tmp_path / "cifar", {"data_batch_1": pickle.dumps(Harmful())})
    with pytest.raises(ValueError, match=r"pickles, which are never loaded.*cifar-10-binary\.tar\.gz"):
        load_images(source)
    assert not (tmp_path / "ran").exists()


def test_a_dataset_of_the_datasets_library(tmp_path):
    features = Features({"img": ImageFeature(), "label": ClassLabel(names=["cat", "dog"]), "note": Value("string")})

    def rows(labels):
        images = [Image.new("RGB", (4, 4), (50 * label, 0, 0)) for label in labels]
        return Dataset.from_dict({"img": images, "label": labels, "note": ["x"] * len(labels)}, features=features)

    DatasetDict({"train": rows([0, 1, 1]), "test": rows([1])}).save_to_disk(tmp_path / "saved")
    corpus = load_images(str(tmp_path / "saved"), validation="test")
    assert corpus.classes == ("cat", "dog")
    assert corpus.train.labels.tolist() == [0, 1, 1]
    assert corpus.train.images[:, 0, 0, 0].tolist() == [0, 50, 50]
    assert corpus.validation.labels.tolist() == [1]
    with pytest.raises(ValueError, match="no split 'dev'; it has train, test"):
        load_images(str(tmp_path / "saved"), validation="dev")
    rows([0, -1, 1]).save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match="train has rows without an image or a label"):
        load_images(str(tmp_path / "unlabelled"))
    other = rows([1]).cast_column("label", ClassLabel(names=["dog", "cat"]))
    DatasetDict({"train": rows([0, 1]), "test": other}).save_to_disk(tmp_path / "mixed")
    with pytest.raises(ValueError, match="the classes of test are not those of train"):
        load_images(str(tmp_path / "mixed"), validation="test")


def test_the_shared_sample_of_cifar10(shared_data):
    corpus = load_images(str(shared_data / "cifar10" / "cifar10_images.zip"))
    assert corpus.train.images.shape == (5000, 3, 32, 32)
    assert corpus.validation.images.shape == (1000, 3, 32, 32)
    assert corpus.classes[0] == "airplane"
    assert corpus.classes[9] == "truck"


def numbered(count):
    """Images of which every pixel is the number of the image, and so is the label."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 3, 6, 6)).copy()
    return LabelledImages(images, np.arange(count))


def batches(data=None, **options):
    defaults = {"batch_size": 4, "seed": 3}
    return ImageBatches(data or numbered(11), [0.0] * 3, [1.0] * 3, **(defaults | options))


def test_an_epoch_has_every_image_at_most_once_and_the_next_has_another_order():
    stream = batches()
    first, second = ([next(stream)["labels"] for _ in range(2)] for _ in range(2))
    for epoch in (first, second):
        assert len(set(np.concatenate(epoch))) == 8
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_stream_goes_on_as_if_it_had_not_stopped(stop):
    stream = batches(flip=True, pad=2)
    for _ in range(stop):
        next(stream)
    state = stream.state_dict()
    again = batches(flip=True, pad=2)
    again.load_state_dict(state)
    for _ in range(4):
        expected, found = next(stream), next(again)
        assert all(np.array_equal(expected[key], found[key]) for key in ("pixel_values", "labels"))


def test_a_state_of_other_images_is_refused():
    with pytest.raises(ValueError, match="not those of the checkpoint"):
        batches().load_state_dict(batches(numbered(12)).state_dict())


def test_flips_and_shifted_crops_are_all_that_changes():
    image = np.arange(36, dtype=np.uint8).reshape(6, 6) + 1
    data = LabelledImages(np.broadcast_to(image, (200, 3, 6, 6)).copy(), np.zeros(200, dtype=np.int64))
    bordered = np.pad(image, 1)
    possible = {
        bordered[top : top + 6, left : left + 6][:, ::step].tobytes()
        for top in range(3)
        for left in range(3)
        for step in (1, -1)
    }
    # A mirrored image that is shifted is a shifted image that is mirrored: 18 of them.
    pixels = next(batches(data, batch_size=200, flip=True, pad=1))["pixel_values"]
    found = {np.rint(pixel[0] * 255).astype(np.uint8).tobytes() for pixel in pixels}
    assert found == possible
    assert all(np.array_equal(pixel[0], pixel[2]) for pixel in pixels)


def test_pixels_are_what_the_image_processor_makes_of_them():
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    corpus = load_images("digits")
    mean, std = corpus.mean_and_std()
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=mean, image_std=std)
    expected = processor(list(corpus.validation.images[:3]), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(normalised(corpus.validation.images[:3], mean, std), expected, atol=1e-6)
    training = normalised(corpus.train.images, mean, std)
    assert abs(training.mean(dtype=np.float64)) < 1e-6
    assert abs(training.std(dtype=np.float64) - 1) < 1e-6


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="a batch of 12 needs as many images, but there are 11"):
        batches(batch_size=12)
