"""Files of weights that other programs have written, and the state dicts that lie in them."""

from __future__ import annotations

import io
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from xal_ray.errors import ModelError, StorageError
from xal_ray.places import is_remote


def read_checkpoint(path: Path) -> Mapping[Any, Any]:
    """Read a file of weights. Pickles are read without running any code in them (`weights_only`).

    Raises:
        ModelError: It can't be read, or holds no mapping.
    """
    if path.is_dir():
        raise ModelError(
            "a weights file can't be read",
            expected="a state dict as .safetensors, .pth or .pt",
            found="a folder",
            where=str(path),
            next_step=f"give a file in it, of a trained round --set model.weights={path}/model.safetensors",
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(200)
        if head[8:9] == b"{":  # safetensors, whatever the file is called: a length, then JSON
            return dict(safetensors.torch.load(path.read_bytes()))
        _refuse_other_file(head, path)
        # torch goes by the name, too, where that ends in .safetensors.
        by_name = is_remote(path) or path.suffix == ".safetensors"
        source = io.BytesIO(path.read_bytes()) if by_name else path
        with torch.serialization.safe_globals([Namespace]):  # a bag of options: it runs nothing
            content = torch.load(source, map_location="cpu", weights_only=True)
    except (StorageError, ModelError):
        raise
    except Exception as error:  # the readers raise whatever a damaged file leads them to
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise no_state_dict(path, f"a {type(content).__name__}")
    return content


def _refuse_other_file(head: bytes, path: Path) -> None:
    """Name what a download leaves in a file's place: it is no pickle, and must not be unpickled."""
    found = next_step = ""
    if not head:
        found, next_step = "an empty file", "copy or download it again"
    elif head.startswith(b"version https://git-lfs"):
        found, next_step = "a pointer of git-lfs in its place", "run `git lfs pull` in the repository"
    elif head.lstrip().startswith((b"<", b"{")):
        found = "a page of text in its place, as of a download that asks for a login"
        next_step = "look into it, and download the weights again"
    if found:
        raise _no_weights(path, found, next_step)


def _unreadable(path: Path, error: Exception) -> ModelError:
    text = str(error)
    found = text.split("\n")[0]
    next_step = "check model.weights: none, imagenet, or the path of a state dict"
    if "TorchScript" in text:
        found = "a TorchScript archive"
        next_step = _rewrite(f"torch.jit.load({str(path)!r}).state_dict()")
    elif "Weights only load failed" in text:
        kinds = re.findall(r"GLOBAL ([\w.]+)", text)
        kind = kinds[0] if kinds else "object"
        found = f"a pickled {kind}: a whole model, or more than weights; its code is not run"
        whole = f"torch.load({str(path)!r}, weights_only=False)"
        inner = "m.get('state_dict', m.get('model', m)) if isinstance(m, dict) else m"
        next_step = "only if you trust the file, since its code then runs: " + _rewrite(
            f"(lambda m: m.state_dict() if hasattr(m, 'state_dict') else m)((lambda m: {inner})({whole}))"
        )
    return _no_weights(path, found, next_step)


def _no_weights(path: Path, found: str, next_step: str) -> ModelError:
    return ModelError(
        "a weights file can't be read",
        expected="a state dict as .safetensors, .pth or .pt",
        found=found,
        where=str(path),
        next_step=next_step,
    )


def _rewrite(expression: str) -> str:
    return (
        f"python -c \"import torch; torch.save({expression}, 'weights.pth')\", "
        "then --set model.weights=weights.pth"
    )


def no_state_dict(path: Path, found: str) -> ModelError:
    """Return the error about a file that can be read, and holds no weights."""
    return ModelError(
        "a weights file holds something other than a state dict",
        expected="a mapping from parameter names to tensors, or one that holds such a mapping",
        found=found,
        where=str(path),
        next_step="save model.state_dict() alone, and give that file",
    )


def state_dicts(
    content: Mapping[Any, Any], key: str = "", depth: int = 4
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping from names to tensors in what a file holds, and its key."""
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    state = {name: value for name, value in tensors.items() if isinstance(name, str)}
    if state:
        yield key, state
    for name, value in content.items():
        if isinstance(value, Mapping) and depth:
            yield from state_dicts(value, f"{key}.{name}".lstrip("."), depth - 1)
