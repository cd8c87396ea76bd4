"""Write README.md from nbs/index.ipynb: as nbconvert does it, with links that hold one folder higher."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

index = nbformat.read("nbs/index.ipynb", as_version=4)
index.metadata["language_info"] = {"name": "python"}
text, _ = MarkdownExporter().from_notebook_node(index)
text = re.sub(r"\]\((?!https?:|#|\.\./)", "](nbs/", text).replace("](../", "](")
Path("README.md").write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", encoding="utf-8")
