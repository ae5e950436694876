"""Pages of the site whose source is no page of docs/, the notebook among them; its docstrings."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File

ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "data/README.md": "data.md",
}
NOTEBOOKS = {"tour.ipynb": "tour.md"}


def on_files(files: Any, config: Any) -> Any:
    docs = Path(config.docs_dir)
    for source, page in ELSEWHERE.items():
        text = (docs.parent / source).read_text("utf-8")
        files.append(File.generated(config, page, content=text))
    for source, page in NOTEBOOKS.items():
        text, pictures = read_notebook(docs / source)
        files.append(File.generated(config, page, content=text))
        for name, data in pictures.items():
            files.append(File.generated(config, name, content=data))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the repository become links to their pages."""
    pages = ELSEWHERE | NOTEBOOKS
    return re.sub(
        r"(?<=\]\()(?:docs/)?([^)#]+)",
        lambda found: pages.get(found[1], found[1]),
        markdown,
    )


def read_notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures in it by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            text = "".join(data.get("text/plain", output.get("text", ())))
            if "image/png" in data:
                name = f"{path.stem}-{number}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![{re.sub('[][<>]', '', text)}]({name})")
            else:
                parts.append(f"```text\n{text.strip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


class Spelling(griffe.Extension):
    """Says in the words of griffe what the code here says in fewer."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = spelt_out(obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """The default of a field of options, which stands there with its rule."""
        value = attr.value
        if isinstance(value, griffe.ExprCall) and str(value.function) == "option":
            attr.value = value.arguments[0]


def spelt_out(docstring: str) -> str:
    """An entry for each argument, where several share one; doctests as blocks of code."""
    entries = re.sub(
        r"^( {4,})([\w*]+(?:, [\w*]+)+): (.*(?:\n\1 +.*)*)",
        lambda found: "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", ")),
        docstring,
        flags=re.MULTILINE,
    )
    return re.sub(r"^>>> (?:.+\n?)+", r"```python\n\g<0>\n```\n", entries, flags=re.MULTILINE)
