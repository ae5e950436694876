"""The rooms of the house: what may import what, read from the imports themselves."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FLOORS: tuple[tuple[str, str], ...] = (
    ("facts", "_version errors"),
    ("words and names", "english vocabulary file_names picture_files png_texts outcome outlines"),
    ("tools", "faults fetching progress records saving workers"),
    ("ground", "bit_depth checks drawing filling provenance showing style"),
    ("pictures and options", "image option_table options arguments formats"),
    ("forms of results", "rle packing"),
    ("segmentations", "masks"),
    ("edits", "edits"),
    ("sheets", "contact_sheet"),
    ("annotations", "coco"),
    ("models", "backbone"),
    ("questions", "prompts predictions name_weights batch_size"),
    ("what is there", "presence"),
    ("the algorithm", "contrast"),
    ("masks", "binarize"),
    ("refinement", "refine"),
    ("cutting", "cutting"),
    ("correcting", "clicks"),
    ("captions", "captioning"),
    ("the segmenter", "segmenter"),
    ("sampling", "inversion"),
    ("ways to edit", "edit_methods"),
    ("editing", "editing"),
    ("after editing", "outpainting assessing"),
    ("pictures from words", "generation"),
    ("training", "training"),
    ("mini's recipe", "training/mini"),
    ("the painter's recipe", "training/painter"),
    ("many pictures", "batch bench"),
    ("the public names", "textseg"),
    ("from afar", "client"),
    ("for people", "studio"),
    ("over HTTP", "server"),
    ("the command line", "cli"),
    ("its start", "__main__"),
    ("evaluation", "textseg_eval"),
)
"""From the ground up: a room imports its own and lower ones."""
FLOOR = {room: n for n, (_, rooms) in enumerate(FLOORS) for room in rooms.split()}


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    files = [*(ROOT / "textseg").rglob("*.py"), *(ROOT / "eval/textseg_eval").rglob("*.py")]
    found = {}
    for file in files:
        parts = file.relative_to(ROOT if "eval" not in file.parts else ROOT / "eval").parts
        if parts[0] == "eval":
            parts = parts[1:]
        name = ".".join(parts).removesuffix(".py").removesuffix(".__init__")
        found[name] = file
    return found


def imports(name: str) -> set[str]:
    """The modules here that one imports, wherever it does so but for the sake of types."""
    file = modules()[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")
            above = above[: len(above) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in modules() else base)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return (found & modules().keys()) - {name}


def room(name: str) -> str:
    first, *rest = name.split(".")
    if first == "textseg_eval" or not rest:
        return first
    inner = "/".join(rest[:2])
    return inner if inner in FLOOR else rest[0]


def test_the_reader_of_imports_sees_them() -> None:
    assert "textseg.refine" in imports("textseg.cutting")
    assert "textseg.segmenter" in imports("textseg.editing")
    assert "textseg.image" in imports("textseg.backbone.inpainting")
    assert "textseg.backbone.base" not in imports("textseg.prompts")  # for types only


def test_every_room_has_a_floor_and_is_on_the_map() -> None:
    assert {room(name) for name in modules()} == FLOOR.keys()
    map_of_rooms = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for title, rooms in FLOORS:
        line = next(line for line in map_of_rooms.splitlines() if line.startswith(f"| {title} |"))
        assert line.split("|")[2].replace("`", "").split() == rooms.split()


def test_nothing_imports_upward() -> None:
    upward = [
        f"{name} imports {other}"
        for name in modules()
        for other in imports(name)
        if room(other) != room(name) and FLOOR[room(other)] >= FLOOR[room(name)]
    ]
    assert not upward


def test_no_files_import_one_another_in_a_circle() -> None:
    graph = {name: imports(name) for name in modules()}
    while free := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in free}
    # What is left imports a circle or is in one.
    assert not graph
