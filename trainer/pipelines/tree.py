"""Structures of tensors (named tuples, dictionaries, …) as flat mappings, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def flatten(tree: Any) -> dict[str, Tensor]:
    """The tensors of a structure, by their path in it."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return {pytree.keystr(path): leaf for path, leaf in leaves}


def names(tree: Any) -> Any:
    """The same structure with the path of each tensor in its place, as `restore` wants it; can be pickled."""
    return pytree.tree_map_with_path(lambda path, _: pytree.keystr(path), tree)


def restore(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `flatten` was given, from its `names`."""
    return pytree.tree_map(lambda name: tensors[name], structure)
