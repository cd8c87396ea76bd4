"""A person labels texts in a real JupyterLab."""

import pytest
from playwright.sync_api import expect
from test_panel_browser import VIOLATIONS


@pytest.fixture
def file(lab_server):
    path = lab_server.folder / "labels.csv"
    yield path
    path.unlink(missing_ok=True)


def lines(file):
    return file.read_text(encoding="utf-8-sig").splitlines()


def test_ten_texts_are_labelled_by_keyboard_undone_found_again_and_exported(open_lab, file):
    lab = open_lab("labels")
    lab.run_cell(0)
    panel, keyboard = lab.panel(0), lab.page.keyboard
    asked = panel.root.get_by_label("text", exact=True)
    expect(asked).to_have_text("Text 0: a waste of time")
    panel.field("Keys").focus()
    for key, following in zip("122", (1, 2, 3), strict=True):
        keyboard.press(key)
        expect(asked).to_contain_text(f"Text {following}:")
    keyboard.press("Backspace")
    expect(panel.status).to_contain_text("2 of 10 answered: blame 1, praise 1")
    keyboard.type("1-x2")
    expect(panel.status).to_contain_text("5 of 10 answered: blame 2, praise 2, passed over 1")
    assert lines(file)[3:] == ["Text 2: a waste of time,blame", "Text 3: a joy,", "Text 4: a waste of time,praise"]
    expect(panel.root.get_by_role("alert")).to_contain_text("'x' is no answer here")
    expect(panel.field("Keys")).to_have_value("121-2")

    lab.page.reload()
    lab.open()
    lab.run_cell(0)
    panel, asked = lab.panel(0), lab.panel(0).root.get_by_label("text", exact=True)
    expect(asked).to_contain_text("Text 5:")
    expect(panel.field("Keys")).to_have_value("121-2")
    panel.button("Undo").click()
    expect(asked).to_contain_text("Text 4:")
    for name in ("1 blame", "2 praise", "1 blame", "2 praise", "1 blame", "2 praise"):
        panel.button(name).focus()
        keyboard.press("Enter")
    expect(asked).to_have_text("All texts are answered.")
    lab.run_cell(1)
    expect(lab.output(1)).to_contain_text("[0, 1, 0, 0, 1, 0, 1, 0, 1]")
    expect(lab.output(1)).to_contain_text("labels.csv: 1 row without a label dropped.")
    assert len(lines(file)) == 11


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (600, True)])
def test_the_labeller_is_accessible_and_fits(open_lab, axe, file, tmp_path, width, dark):
    lab = open_lab("labels", width, dark)
    lab.run_cell(0)
    panel = lab.panel(0)
    panel.field("Keys").focus()
    lab.page.keyboard.type("12x")
    expect(panel.status).to_contain_text("2 of 10 answered")
    lab.page.evaluate(axe)
    assert lab.page.evaluate(VIOLATIONS) == []
    box, cell = panel.root.bounding_box(), lab.output(0).bounding_box()
    assert box["x"] + box["width"] <= cell["x"] + cell["width"] + 1
    panel.root.screenshot(path=tmp_path / "labeller.png")
