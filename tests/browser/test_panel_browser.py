"""A learner at a panel in a real JupyterLab, and in Voila."""

import json
import re
from statistics import median

import pytest
from conftest import Panel
from playwright.sync_api import expect

VIOLATIONS = """async () => (await axe.run('.ftl-panel')).violations
    .filter(found => ['serious', 'critical'].includes(found.impact))
    .map(found => `${found.id}: ${found.nodes.map(node => node.html).join('\\n')}`)"""


def test_a_learner_predicts_trains_stops_and_compares(open_lab):
    lab = open_lab("journey").run_all()
    panel, page = lab.panel(), lab.page
    expect(lab.output(2)).to_contain_text("other cell {'lr': 0.01, 'steps': 60, 'seed': 0} []")

    expect(panel.button("Run")).to_be_disabled()
    panel.field("Your prediction").focus()
    page.keyboard.type("about 0.3")
    page.keyboard.press("Enter")
    expect(panel.button("Run")).to_be_enabled()

    panel.field("steps").select_option("60000")
    panel.field("learning rate").focus()
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    expect(panel.field("learning rate")).to_have_value("0.0105")
    panel.button("Run").focus()
    page.keyboard.press("Enter")
    panel.wait_for_step(1)
    panel.wait_for_step(panel.step() + 1)
    expect(panel.rows.locator("td").first).to_have_text("0.0105")

    lab.run_cell(2)
    expect(lab.output(2)).to_contain_text("other cell {'lr': 0.0105, 'steps': 60000, 'seed': 0} ['running']")

    times = []
    for _ in range(3):
        times.append(panel.milliseconds_to_stop())
        at = panel.step()
        expect(panel.status).to_contain_text(f"stopped after {at:,} steps")
        panel.button("Resume").click()
        panel.wait_for_step(at + 1)
    print("stop took", times)
    assert median(times) <= 300
    panel.button("Stop").click()
    expect(panel.status).to_contain_text("is stopped")

    panel.field("steps").select_option("60")
    panel.set("learning rate", "0.3")
    expect(panel.field("Your prediction")).to_have_value("")
    panel.set("Your prediction", "lower than run 1")
    expect(panel.status).to_contain_text("You predicted: lower than run 1.")
    panel.run_to_end(2)
    expect(panel.status).to_contain_text("You predicted: lower than run 1.")
    panel.set("learning rate", "0.1")
    panel.run_to_end(3)
    expect(panel.status).not_to_contain_text("predicted")
    labels = panel.plot.locator(".ftl-main .ftl-label")
    expect(labels).to_have_count(3)
    assert sorted(labels.all_text_contents()) == ["run 1", "run 2", "run 3"]

    panel.field("Sort by").select_option("lr")
    expect(panel.rows.locator("th")).to_have_text(["run 1", "run 3", "run 2"])
    panel.button("Largest first").click()
    expect(panel.rows.locator("th")).to_have_text(["run 2", "run 3", "run 1"])
    panel.field("Compare").select_option("run 2")
    panel.field("Compare with").select_option("run 3")
    expect(panel.root.locator(".ftl-comparison")).to_contain_text(re.compile(r"lr\s*0.3\s*0.1\s*-0.2"))
    panel.field("Remove run").select_option("run 1")
    panel.button("Remove").click()
    expect(panel.rows).to_have_count(2)

    panel.button("Show me the code").click()
    expect(panel.field("Code")).to_be_visible()
    panel.field("Code").focus()
    page.keyboard.press("Control+a")
    page.keyboard.press("Control+c")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(
        "from tiny_run import TinyRun\nlr = 0.1\nsteps = 60\nseed = 0\nrun = TinyRun(lr, steps, seed)\nrun.finish()\n"
    )

    panel.button("Reset").click()
    expect(panel.field("learning rate")).to_have_value("0.01")
    expect(panel.rows).to_have_count(2)
    expect(panel.status).to_contain_text("2 runs stay")

    panel.field("Like").select_option("run 2")
    expect(panel.field("learning rate")).to_have_value("0.3")
    panel.field("from").select_option("its last step")
    panel.field("from").select_option("the start")
    panel.set("learning rate", "0.2")
    panel.run_to_end(4)
    expect(panel.rows.filter(has_text="run 4")).to_contain_text("run 2, but lr=0.2")

    panel.field("Remove run").select_option("all runs")
    panel.button("Remove").click()
    expect(panel.rows).to_have_count(0)


def test_a_slider_is_moved_by_mouse(open_lab):
    lab = open_lab("plain").run_all()
    panel = lab.panel()
    handle = panel.root.locator(".noUi-touch-area").first
    place = handle.bounding_box()
    lab.page.mouse.move(place["x"] + 5, place["y"] + 5)
    lab.page.mouse.down()
    lab.page.mouse.move(place["x"] + 30, place["y"] + 5, steps=5)
    lab.page.mouse.up()
    expect(panel.field("learning rate")).not_to_have_value("0.01")
    panel.run_to_end(1)
    expect(panel.rows.first.locator("td").first).to_have_text(panel.field("learning rate").input_value())


def test_a_value_out_of_reach_is_answered_in_words(open_lab):
    panel = open_lab("plain").run_all().panel()
    for _ in range(2):
        panel.set("learning rate", "1e9")
        expect(panel.root.get_by_role("alert")).to_have_text("100 is the highest here; 1e+09 was asked.")
        expect(panel.field("learning rate")).to_have_value("100")
        panel.set("learning rate", "0.1")
        expect(panel.root.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("width", [1400, 800])
def test_the_curves_are_in_view_beside_the_controls(open_lab, width):
    panel = open_lab("shown", width).run_all().panel()
    expect(panel.rows).to_have_count(4)
    top, chart = panel.root.bounding_box(), panel.plot.locator(".ftl-main").bounding_box()
    assert chart["y"] + chart["height"] - top["y"] < 700  # of the 900 pixels of a small screen


def test_the_interrupt_button_of_the_kernel_stops_a_run(open_lab):
    lab = open_lab("plain").run_all()
    panel = lab.panel()
    panel.field("steps").select_option("60000")
    panel.button("Run").click()
    panel.wait_for_step(1)
    lab.page.get_by_role("button", name="Interrupt the kernel").click()
    expect(panel.status).to_contain_text("by the kernel's interrupt. Resume goes on from here.")
    panel.button("Resume").click()
    panel.wait_for_step(panel.step() + 1)
    panel.button("Stop").click()
    expect(panel.status).to_contain_text("is stopped")


def test_a_failure_is_a_sentence_and_the_panel_stays_usable(open_lab):
    panel = open_lab("plain").run_all().panel()
    panel.set("learning rate", "90")
    panel.button("Run").click()
    expect(panel.status).to_contain_text("Failed while training step")
    expect(panel.status).to_contain_text("Try a smaller learning rate than 90.")
    trace = panel.root.locator("pre", has_text="Traceback (most recent call last)")
    expect(trace).to_be_hidden()
    panel.root.get_by_text("Traceback", exact=True).click()
    expect(trace).to_be_visible()
    panel.set("learning rate", "0.1")
    panel.run_to_end(2)


def test_a_saved_notebook_shows_the_panel_again_and_a_closed_tab_loses_nothing(open_lab, lab_server):
    lab = open_lab("shown").run_all()
    panel = lab.panel()
    expect(panel.rows).to_have_count(4)
    lab.page.keyboard.press("Control+s")
    path = lab_server.folder / "shown.ipynb"
    lab.page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    panel.field("Your prediction").fill("0.3")
    panel.button("Commit").click()
    panel.field("steps").select_option("60000")
    panel.button("Run").click()
    panel.wait_for_step(1)
    lab.page.close()

    again = open_lab("shown").panel()
    expect(again.rows).to_have_count(5)
    again.wait_for_step(again.step() + 1)
    expect(again.field("learning rate")).to_have_value("1")
    again.button("Stop").click()
    expect(again.status).to_contain_text("Run 5 is stopped")
    saved = json.loads(path.read_text())
    assert "widgets" not in saved["metadata"]
    data = saved["cells"][1]["outputs"][0]["data"]
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 800, 640])
def test_the_panel_is_accessible_and_fits(open_lab, axe, tmp_path, width, dark):
    lab = open_lab("shown", width, dark)
    if not lab.cell(1).locator(".ftl-panel").count():
        lab.run_all()
    panel = lab.panel()
    panel.field("Sort by").select_option("loss")
    panel.field("Compare").select_option("run 1")
    panel.field("Compare with").select_option("run 3")
    expect(panel.root.locator(".ftl-comparison")).to_be_visible()
    if not panel.field("Code").is_visible():
        panel.button("Show me the code").click()
    expect(panel.field("Code")).to_be_visible()
    assert panel.root.evaluate("panel => panel.scrollWidth - panel.clientWidth") <= 1
    lab.page.evaluate(axe)
    assert lab.page.evaluate(VIOLATIONS) == []
    panel.root.screenshot(path=tmp_path / f"panel-{width}-{'dark' if dark else 'light'}.png")


def test_a_kernel_restart_in_the_middle_is_said_and_leaves_nothing_behind(open_lab):
    lab = open_lab("restart").run_all()
    panel = lab.panel()
    panel.field("steps").select_option("60000")
    panel.button("Run").click()
    panel.wait_for_step(1)
    lab.page.get_by_role("button", name="Restart the kernel", exact=True).click()
    lab.page.get_by_role("button", name="Confirm Kernel Restart").click()
    gone = panel.root.locator(".ftl-lost")
    expect(gone).to_be_visible()
    expect(gone).to_have_text(re.compile(r"restarted or shut down: run 1 ended at step [\d,]+\. Run this cell again"))
    expect(panel.status).to_be_hidden()
    expect(panel.button("Run")).to_be_hidden()
    expect(panel.plot).to_be_visible()
    assert panel.root.evaluate("panel => getComputedStyle(panel, '::before').content") == "none"

    lab.menu("Kernel", "Restart Kernel and Run All Cells")
    lab.page.get_by_role("button", name="Confirm Kernel Restart").click()
    expect(panel.status).to_have_text("Ready.")
    panel.run_to_end(1)


def test_a_cell_that_runs_again_stops_its_old_panel_and_no_other(open_lab):
    lab = open_lab("pair").run_all()
    first, second = lab.panel(1), lab.panel(2)
    for panel in (first, second):
        panel.field("steps").select_option("60000")
        panel.button("Run").click()
        panel.wait_for_step(1)
    lab.run_cell(1)
    expect(first.status).to_have_text("Ready.")
    lab.run_cell(3)
    expect(lab.output(3)).to_contain_text("outcomes ['stopped'] ['running']")
    second.wait_for_step(second.step() + 1)
    first.run_to_end(1)
    second.button("Stop").click()
    expect(second.status).to_contain_text("is stopped")


def test_the_pump_trains_without_a_thread(open_lab):
    panel = open_lab("pump").run_all().panel()
    panel.field("steps").select_option("60000")
    panel.train_a_while_and_stop()
    at = panel.step()
    panel.button("Resume").click()
    panel.wait_for_step(at + 1)
    panel.button("Stop").click()
    expect(panel.status).to_contain_text("is stopped")
    panel.field("steps").select_option("60")
    panel.run_to_end(2)


def test_explore_redraws_while_a_knob_moves(open_lab):
    lab = open_lab("explore").run_all()
    panel = Panel(lab.cell(1).locator(".ftl-panel"))
    bars = panel.root.locator(".ftl-bars")
    expect(bars).to_have_attribute("aria-label", re.compile("positive 0.881"))
    panel.set("temperature", "4")
    expect(bars).to_have_attribute("aria-label", re.compile("positive 0.622"))
    lab.run_cell(2)
    expect(lab.output(2)).to_contain_text("temperature 4")


def test_the_same_panel_in_voila(voila_server, new_page):
    page = new_page()
    page.goto(voila_server.url("plain"))
    panel = Panel(page.locator(".ftl-panel"))
    panel.field("steps").select_option("60000")
    panel.train_a_while_and_stop()
    panel.field("steps").select_option("60")
    panel.run_to_end(2)


def test_the_panel_of_lesson_11_trains_a_second_run(open_lab):
    lab = open_lab("nbs/1_foundations/11_cross_entropy").run_to_the_end()
    panel = Panel(lab.page.locator(".ftl-panel").filter(has=lab.page.get_by_role("status")))
    expect(panel.rows).to_have_count(1)
    panel.field("Your prediction").fill("0.001")
    panel.button("Commit").click()
    panel.set("learning rate", "0.001")
    panel.run_to_end(2)
    expect(panel.rows).to_have_count(2)
    explorer = lab.page.locator(".ftl-panel").filter(has_not=lab.page.get_by_role("status"))
    before = explorer.get_by_role("img").get_attribute("src")
    explorer.get_by_label("temperature", exact=True).fill("3")
    explorer.get_by_label("temperature", exact=True).press("Enter")
    expect(explorer.get_by_role("img")).not_to_have_attribute("src", before)
