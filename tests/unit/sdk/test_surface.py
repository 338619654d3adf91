"""The public surface is just what `__all__` says, and the generated half has not drifted."""

from __future__ import annotations

import inspect
from pathlib import Path

import latticework
from latticework._exceptions import __doc__ as tree
from tests.unit.sdk.suite import generator


def test_all_is_sorted_and_equals_what_is_importable() -> None:
    names = {
        name
        for name, value in vars(latticework).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert names | {"__version__"} == set(latticework.__all__)
    assert latticework.__all__ == sorted(latticework.__all__)


def test_every_module_but_the_named_ones_is_private() -> None:
    package = Path(latticework.__file__).parent
    public = {
        path.stem for path in package.iterdir() if not path.stem.startswith("_") and path.suffix != ".typed"
    }
    assert public <= {"cli", "models"}


def test_exception_tree_is_drawn_as_it_is() -> None:
    """The drawing at the top of the module names each class below its base."""
    assert tree is not None
    stack: list[tuple[int, str]] = []
    drawn = {}
    for line in tree.splitlines()[2:]:
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        if not words.strip():
            continue
        indent = len(words) - len(words.lstrip())
        name = words.split()[0]
        while stack and stack[-1][0] >= indent:
            stack.pop()
        drawn[name] = stack[-1][1] if stack else "Exception"
        stack.append((indent, name))
    real = {
        name: value.__bases__[0].__name__
        for name, value in vars(latticework).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert drawn == real


def test_synchronous_half_has_not_drifted() -> None:
    """`python sdk/generate.py` mends it."""
    for path, content in generator().sync_files().items():
        assert path.read_text() == content, f"{path.name} has drifted; run: python sdk/generate.py"


def test_models_have_not_drifted() -> None:
    """`python sdk/generate.py` mends it."""
    models = Path(latticework.__file__).parent / "models.py"
    assert models.read_text() == generator().models_file(), "the API has changed; run: python sdk/generate.py"


def test_both_clients_offer_the_same() -> None:
    def members(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert members(latticework.Client) == members(latticework.AsyncClient)
