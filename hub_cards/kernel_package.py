"""The ops as a package of the Hub's `kernels` library: one folder of flat files for each backend, and a card.

The layout is that of kernels 0.17 (https://huggingface.co/docs/kernels/kernel-requirements): `build/torch-<backend>`
holds a package without compiled code, which works with every version of torch, and its `metadata.json`. The library
imports it under the `id` of the metadata, of which two versions in one process must not have the same.
"""

import hashlib
import json
from base64 import b64encode
from importlib.resources import files
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from seqzoo import __version__
from seqzoo.hub_cards.flatten import flatten
from seqzoo.hub_cards.new_folder import new_folder


NAME = "fast-weights"
VERSION = 0  # By the Hub's convention 0 may still change. Any change of what is public needs another number.
LICENSE = "apache-2.0"
BACKENDS = ("cpu", "cuda")
MODULES = ("seqzoo.kernels.decaying_fast_weights", "seqzoo.kernels.delta_fast_weights")
INIT = '''"""Fast-weight memories: the decay rule, one step of it for decoding, and the delta rule."""

from .decaying_fast_weights import decaying_fast_weights, decaying_fast_weights_step
from .delta_fast_weights import delta_fast_weights


__all__ = ["decaying_fast_weights", "decaying_fast_weights_step", "delta_fast_weights"]
'''


def export_kernels(out_dir: str | Path) -> list[Path]:
    """Writes the ops of `seqzoo.kernels` as a repository for the `kernels` library.

    `kernels.get_local_kernel(Path(out_dir))` then loads them where seqzoo is not installed. The folder appears under
    its name only when it is complete.

    Args:
        out_dir (`str` or `Path`):
            A folder that does not exist yet or is empty. Its name becomes the title of the card.

    Returns:
        `list[Path]`: the files of the repository, sorted by name.

    Raises:
        `FileExistsError`: `out_dir` holds something.
    """
    out_dir = Path(out_dir).absolute()
    with new_folder(out_dir) as folder:
        for backend in BACKENDS:
            variant = folder / "build" / f"torch-{backend}"
            variant.mkdir(parents=True)
            flatten(MODULES, variant)
            (variant / "__init__.py").write_text(INIT, encoding="utf-8", newline="\n")
            metadata = json.dumps(_metadata(variant, backend), indent=2) + "\n"
            (variant / "metadata.json").write_text(metadata, encoding="utf-8", newline="\n")
        kernel_card(out_dir.name).save(folder / "README.md")
    return sorted(path for path in out_dir.rglob("*") if path.is_file())


def kernel_card(title: str) -> ModelCard:
    """The card, which the Hub reads as it reads that of a model."""
    return ModelCard.from_template(
        ModelCardData(
            license=LICENSE, library_name="kernels", tags=["kernel", "triton", "linear-attention", "fast-weights"]
        ),
        template_str=(files("seqzoo.hub_cards") / "kernel_package.md").read_text(encoding="utf-8"),
        title=title,
        version=VERSION,
        seqzoo_version=__version__,
    )


def _metadata(variant: Path, backend: str) -> dict:
    """What metadata.json says of the Python files of a variant."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in sorted(variant.glob("*.py"))}
    # The same code always has the same id, and other code another one.
    content = hashlib.sha256(b"".join(name.encode() + digest for name, digest in digests.items())).hexdigest()
    return {
        "name": NAME,
        "id": f"_{NAME.replace('-', '_')}_{backend}_{content[:12]}",
        "version": VERSION,
        "license": LICENSE,
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {
            "algorithm": "sha256",
            "files": {name: b64encode(digest).decode() for name, digest in digests.items()},
        },
    }
