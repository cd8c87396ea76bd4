"""Write what is made of the notebooks besides modules: the way through the lessons, Colab's editions, and README.md."""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

sys.path.insert(0, "")  # the package beside the notebooks, and not another that is installed

from finetune_lessons.lab.notebooks.course import TABLE, course, course_table
from finetune_lessons.lab.notebooks.course_picture import course_words, draw_course
from finetune_lessons.lab.notebooks.editions import colab_editions
from finetune_lessons.lab.reports.which_method import as_markdown, method_table

INDEX, PICTURE, FOR_COLAB = Path("nbs/index.ipynb"), Path("nbs/course.svg"), Path("colab")
METHODS = "index-methods"  # the cell of the index that holds the table of methods

lessons = course()
PICTURE.write_text(draw_course(lessons), encoding="utf-8")
index = nbformat.read(INDEX, as_version=4)
for cell in index.cells:
    if cell.id == TABLE:
        cell.source = course_table(lessons)
    if cell.id == METHODS:
        cell.source = as_markdown(method_table(INDEX.parent / "results"))
    cell.source = re.sub(rf"!\[[^]]*\]\({PICTURE.name}\)", f"![{course_words(lessons)}]({PICTURE.name})", cell.source)
nbformat.write(index, INDEX)

FOR_COLAB.mkdir(exist_ok=True)
for old in FOR_COLAB.glob("*.ipynb"):
    old.unlink()
for name, notebook in colab_editions(INDEX.parent):
    nbformat.write(notebook, FOR_COLAB / name)

index.metadata["language_info"] = {"name": "python"}
text, _ = MarkdownExporter().from_notebook_node(index)
text = re.sub(r"\]\((?!https?:|#)", "](nbs/", text)
Path("README.md").write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", encoding="utf-8")
