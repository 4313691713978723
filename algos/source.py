"""A digest of the source that an algorithm's behaviour depends on, computed without importing it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent


def digest(main: Path, name: str, root: Path) -> str:
    """16 hexadecimal digits for the file `main` and the modules that it imports, directly or through each other.

    `name` is the module's name, and its package lies in the folder `root`. With an empty name every module in `root`
    counts; otherwise those of the package do. Modules of `algos` count in both cases. Docstrings, comments and
    formatting do not. Raises OSError.
    """
    top = name.partition(".")[0]
    found: dict[str, str] = {}
    waiting = [(name, main)]
    while waiting:
        module, path = waiting.pop()
        shape, imports = _read(path.read_bytes())
        found[module] = shape
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for level, imported in imports:
            for candidate in _candidates(imported, level, package):
                own = candidate.partition(".")[0]
                folder = HERE.parent if own == HERE.name else root if own == top or not top else None
                file = _file(folder, candidate) if folder else None
                if file:
                    if candidate not in found:
                        waiting.append((candidate, file))
                    break
    text = "\n".join(f"{module} {shape}" for module, shape in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _candidates(imported: str, level: int, package: str) -> list[str]:
    """The modules that "from a import b" may mean: a.b, else a. With a level it is relative to the package."""
    if level:
        above = package.split(".")[: len(package.split(".")) - level + 1]
        imported = ".".join([*filter(None, above), imported])
    return [imported, imported.rpartition(".")[0]]


def _file(root: Path, module: str) -> Path | None:
    """The file of a module below a folder."""
    if not module:
        return None
    below = root.joinpath(*module.split("."))
    return next((path for path in (below.with_name(f"{below.name}.py"), below / "__init__.py") if path.is_file()), None)


@lru_cache(maxsize=256)
def _read(content: bytes) -> tuple[str, tuple[tuple[int, str], ...]]:
    """The digest of a file's syntax tree, and what it imports, with the level of relative imports."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # perhaps never imported: any change counts
        return hashlib.sha256(content).hexdigest(), ()
    return hashlib.sha256(_shape(tree).encode()).hexdigest(), tuple(_imports(tree))


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names)


def _shape(node: object) -> str:
    """A syntax tree as text, the same in every version of Python: `ast.dump` is not.

    Statements that consist of a text, such as docstrings, are left out, and so are empty fields.
    """
    if isinstance(node, list):
        kept = [each for each in node if not (isinstance(each, ast.Expr) and _is_text(each.value))]
        return f"[{','.join(map(_shape, kept))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        f"{name}={_shape(value)}" for name, value in ast.iter_fields(node) if value not in (None, []) and name != "kind"
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
