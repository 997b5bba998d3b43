"""What the documentation site adds to MkDocs; mkdocs.yml names this file.

The pages are read on a code host too, so their links are relative to the repository. Here links
that leave `docs` lead to the repository where its address is known (as in hatch_build.py), and
become plain text elsewhere. Notebooks become pages. Equations become MathML, which browsers draw
without a script.
"""

import html
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
LOG = logging.getLogger("mkdocs.hooks.spikediff")  # a warning fails a strict build


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the repository's address, which GitHub Actions knows."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        config.repo_url, config.repo_name = f"{server}/{name}", name
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every notebook."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = notebook_page(json.loads(path.read_text(encoding="utf-8")))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
    return files


def notebook_page(notebook: dict[str, Any]) -> str:
    """Return a notebook as Markdown, outputs included."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        png = "".join(data["image/png"]).strip()
        return f'<img alt="output" src="data:image/png;base64,{png}">'
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f'<pre class="output">{html.escape(text)}</pre>'


_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|!?\[[^\]]*\])*)\]\((?!#|[a-z]+:)([^)#\s]+)([^)\s]*)\)")
_FENCE = re.compile(r"(^```.*?^```)", re.M | re.S)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_more: Any) -> str:
    """Lead links out of `docs` to the repository."""
    at = (Path(config.docs_dir) / page.file.src_uri).parent

    def lead(link: re.Match[str]) -> str:
        text, path, rest = link.groups()
        target = Path(os.path.normpath(at / path))
        if target.is_relative_to(config.docs_dir):
            return link[0]
        if not target.exists():
            LOG.warning("%s: no such file: %s", page.file.src_uri, path)
        if target.suffix == ".ipynb":
            built = Path(config.docs_dir, "notebooks", f"{target.stem}.md")
            return f"[{text}]({os.path.relpath(built, at)})"
        where = target.relative_to(ROOT).as_posix()
        return f"[{text}]({config.repo_url}/blob/HEAD/{where}{rest})" if config.repo_url else text

    parts = _FENCE.split(markdown)
    return "".join(p if p.startswith("```") else _LINK.sub(lead, p) for p in parts)


_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_content(content: str, **_more: Any) -> str:
    """Turn equations into MathML."""
    kinds = {"(": "inline", "[": "block"}
    return _MATH.sub(
        lambda found: convert(html.unescape(found[3]), display=kinds[found[2]]), content
    )


class Examples(griffe.Extension):
    """Lets a docstring's `Example:` be a section of code, as its `Examples:` is."""

    def on_object(self, *, obj: griffe.Object, **_more: Any) -> None:
        """Rename the section."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.M
            )
