"""The house shown in the README names only what is there, and all of the package."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BRANCH = re.compile(r"^(?P<indent>(?:│   |    )*)[├└]── (?P<name>[\w.-]+/?)")
TRUNK = re.compile(r"^(?P<name>[\w./-]+/)(?:\s|$)")


def house_tree(readme: str) -> str:
    """The first code block under the heading "House"."""
    block = re.search(r"^## House$.*?^```\w*\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert block is not None, "README.md has no tree under '## House'"
    return block.group(1)


def named_paths(tree: str) -> list[str]:
    """Paths a tree names: a trunk at the margin, branches four columns a level below it."""
    parents: list[str] = []
    paths = []
    for line in tree.splitlines():
        if trunk := TRUNK.match(line):
            parents = [trunk["name"]]
        elif branch := BRANCH.match(line):
            del parents[1 + len(branch["indent"]) // 4 :]
            parents.append(branch["name"])
        else:
            continue
        paths.append("".join(parents))
    return paths


def test_the_readme_names_only_paths_that_exist():
    paths = named_paths(house_tree((ROOT / "README.md").read_text()))
    assert "src/tonnage/errors.py" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_names_every_module_and_package():
    paths = named_paths(house_tree((ROOT / "README.md").read_text()))
    package = ROOT / "src" / "tonnage"
    modules = {f"src/tonnage/{path.name}" for path in package.glob("*.py")}
    packages = {f"src/tonnage/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert modules | packages <= set(paths)


@pytest.mark.parametrize(
    ("tree", "paths"),
    [
        ("a/b/   words\n├── c.py   more\n", ["a/b/", "a/b/c.py"]),
        ("a/\n├── b/\n│   └── c.py\n└── d.py\n", ["a/", "a/b/", "a/b/c.py", "a/d.py"]),
        ("a/\n│   ── words everyone uses\n├── b.py ★ read me\n", ["a/", "a/b.py"]),
        ("a/\n└── b.py\n\nc/\n└── d.py\n", ["a/", "a/b.py", "c/", "c/d.py"]),
    ],
)
def test_a_tree_is_read_as_it_is_drawn(tree, paths):
    assert named_paths(tree) == paths
