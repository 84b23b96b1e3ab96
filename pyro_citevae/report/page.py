"""A page of an executed notebook that needs nothing else: no network, no script."""

from __future__ import annotations

import html
from typing import Any

from pyro_citevae.kinds import PAGE

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: #222; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; background: #f6f6f6;
  padding: .6rem; }
.jp-OutputArea, .output, .output_html, .output_subarea, .table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .2rem .55rem; text-align: right; border-bottom: 1px solid #eee; }
th { background: #f6f6f6; } tbody th { text-align: left; font-weight: 500; }
.prompt, .anchor-link { display: none; }
"""


def page(notebook: Any, title: str) -> str:
    """What a notebook shows, without its code, as HTML.

    Pictures lie in the page. Text of the data is escaped, so that a gene called ``<script>`` is shown.

    Args:
        notebook: The executed notebook, an ``nbformat`` node.
        title: The page's title.

    Example:
        >>> import nbformat
        >>> made = page(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A run")]), "<run>")
        >>> "<title>&lt;run&gt;</title>" in made, "A run" in made, "<script" in made
        (True, True, False)
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    exporter.exclude_anchor_links = True
    body, _ = exporter.from_notebook_node(notebook)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n"
        f'<meta name="generator" content="{PAGE.words}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
