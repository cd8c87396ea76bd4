"""What somebody sees who opens the course in a real JupyterLab."""

import pytest
from conftest import LESSONS, TOKEN, Lab, Server, free_port, serving
from playwright.sync_api import expect

from finetune_lessons.lab.notebooks.course import TABLE
from finetune_lessons.lab.notebooks.editions import make_copies


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    "JupyterLab on copies of the lessons, as `make lab` starts it."
    folder = tmp_path_factory.mktemp("copies")
    table = "| lesson | done |\n|---|---|\n| 11 [Cross-entropy](1_foundations/11_cross_entropy.ipynb) | 2 of 6 |"
    assert not list(make_copies(LESSONS, folder / "my_lessons", {TABLE: table}))
    port = free_port()
    home = f"http://127.0.0.1:{port}"
    command = ["jupyterlab", str(folder / "my_lessons"), "--LabApp.default_url=/lab/tree/index.ipynb", "--no-browser"]
    command += ["--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.extension_manager=readonly"]
    with serving(command, f"{home}/api/status?token={TOKEN}", folder):
        yield Server(f"{home}/lab/tree/{{notebook}}.ipynb?token={TOKEN}&reset", folder)


def test_the_lab_opens_on_the_way_through_the_lessons(copies, new_page):
    page = new_page()
    page.goto(copies.url("x").partition("/lab")[0] + f"/?token={TOKEN}")
    notebook = page.locator(".jp-Notebook")
    notebook.get_by_role("heading", name="The way through").wait_for()
    assert "/lab/tree/index.ipynb" in page.url
    picture = notebook.locator("img").first
    assert picture.get_attribute("alt").startswith("The way through the lessons: 11 Cross-entropy")
    page.wait_for_function("image => image.complete && image.naturalWidth > 500", arg=picture.element_handle())
    expect(notebook.get_by_role("cell", name="2 of 6")).to_be_visible()
    notebook.get_by_role("link", name="Cross-entropy", exact=True).click()
    page.get_by_role("tab", name="11_cross_entropy.ipynb").wait_for()
    opened = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    expect(opened.locator("strong", has_text="Which one has more to unlearn?")).to_be_visible()


def test_library_code_is_folded(copies, new_page):
    lab = Lab(new_page(), copies.url("2_parameter_efficient/22_lora")).open()
    folded = lab.page.locator(".jp-CodeCell").filter(has_text="Library code: skip at first reading")
    folded.first.wait_for()
    expect(lab.page.locator(".jp-InputPlaceholder").first).to_be_visible()


def test_the_first_question_is_answered_by_running_its_cell(copies, new_page):
    lab = Lab(new_page(), copies.url("1_foundations/11_cross_entropy")).open()
    answer = lab.page.locator("details p", has_text="is worse: a single answer")
    expect(answer).to_be_hidden()
    expect(lab.output(1)).not_to_contain_text("mean surprise")
    expect(lab.cell(2).locator("img")).to_be_visible()  # the curve that follows stays
    lab.run_cell(0)
    lab.run_cell(1)
    expect(lab.output(1)).to_contain_text("mean surprise")
    lab.page.locator("summary", has_text="Answer first").first.click()
    expect(answer).to_be_visible()


def test_the_picture_of_a_model_fits_a_page_of_800_pixels(open_lab):
    lab = open_lab("drawn", 800).run_all()
    picture = lab.output(0).locator(".jp-RenderedSVG img")
    picture.wait_for()
    lab.page.wait_for_function("image => image.complete && image.naturalWidth > 500", arg=picture.element_handle())
    area = lab.output(0).locator(".jp-RenderedSVG")
    assert area.evaluate("area => area.scrollWidth - area.clientWidth") == 0
