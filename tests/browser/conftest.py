"""A real JupyterLab, a real Voila and a real Chromium for the tests in this folder."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import panel_notebooks
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

HERE = Path(__file__).parent
LESSONS = HERE.parents[1] / "nbs"
PATIENCE = 60_000  # ms: the processors are shared, a wait ends as soon as what it waits for is there
TOKEN = "panel"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "apputils-extension/themes": {"adaptive-theme": True},  # light or dark as the browser asks
    "notebook-extension/tracker": {"windowingMode": "none"},
}


STOPWATCH = """(panel, button) => {
    window.clicked = window.stopped = undefined
    button.addEventListener('click', () => window.clicked = performance.now(), {capture: true, once: true})
    const watch = new MutationObserver(() => {
        if (panel.querySelector('[role=status]')?.textContent.includes('is stopped')) {
            window.stopped ??= performance.now()
            watch.disconnect()
        }
    })
    watch.observe(panel, {subtree: true, childList: true, characterData: true})
}"""


class Server:
    "A running server and the address of its notebooks."

    def __init__(self, address: str, folder: Path):
        self.address, self.folder = address, folder

    def url(self, notebook: str) -> str:
        return self.address.format(notebook=notebook)


class Panel:
    "What a person sees of one panel."

    def __init__(self, root: Locator):
        self.root, self.page = root, root.page
        self.status = root.get_by_role("status").first
        self.plot = root.locator(".ftl-charts")
        self.rows = root.locator(".ftl-table").first.locator("tbody tr")

    def button(self, name: str) -> Locator:
        return self.root.get_by_role("button", name=name, exact=True)

    def field(self, name: str) -> Locator:
        return self.root.get_by_label(name, exact=True)

    def step(self) -> int:
        return int(self.plot.get_attribute("data-step") or 0)

    def wait_for_step(self, least: int) -> None:
        reached = "([panel, least]) => +panel.querySelector('.ftl-charts').dataset.step >= least"
        self.page.wait_for_function(reached, arg=[self.root.element_handle(), least])

    def set(self, name: str, value: str) -> None:
        "Type a value into a field."
        self.field(name).fill(value)
        self.field(name).press("Enter")

    def milliseconds_to_stop(self) -> float:
        "From the click on Stop to the status that says so, by the browser's clock."
        self.root.evaluate(STOPWATCH, self.button("Stop").element_handle())
        self.button("Stop").click()
        expect(self.status).to_contain_text("is stopped")
        return self.page.evaluate("() => window.stopped - window.clicked")

    def train_a_while_and_stop(self) -> None:
        "Start a new run, see its curve grow, and stop it."
        self.button("Run").click()
        self.wait_for_step(1)
        self.wait_for_step(self.step() + 1)
        self.button("Stop").click()
        expect(self.status).to_contain_text("is stopped")

    def run_to_end(self, number: int) -> None:
        self.button("Run").click()
        expect(self.status).to_contain_text(f"Run {number} is done")


class Lab:
    "A notebook that is open in JupyterLab."

    def __init__(self, page: Page, url: str):
        self.page, self.url = page, url

    def open(self) -> "Lab":
        self.page.goto(self.url)
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
        return self

    def menu(self, *names: str) -> None:
        for name in names:
            self.page.get_by_role("menuitem", name=re.compile(f"^{name}(…|\\.\\.\\.)?$")).click()

    def run_all(self) -> "Lab":
        self.menu("Run", "Run All Cells")
        return self

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def output(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-Cell-outputArea")

    def panel(self, index: int = 1) -> Panel:
        panel = Panel(self.cell(index).locator(".ftl-panel"))
        panel.root.wait_for()
        return panel

    def run_to_the_end(self) -> "Lab":
        "All cells of a lesson, which may take minutes."
        self.run_all()
        expect(self.cell(-1).locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=5 * PATIENCE)
        return self

    def run_cell(self, index: int) -> None:
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("lab")
    panel_notebooks.write(folder)
    shutil.copytree(LESSONS, folder / "nbs")
    for name, values in SETTINGS.items():
        path = folder / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    port = free_port()
    command = ["jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.extension_manager=readonly"]
    home = f"http://127.0.0.1:{port}"
    with serving(command, f"{home}/api/status?token={TOKEN}", folder):
        yield Server(f"{home}/doc/tree/{{notebook}}.ipynb?token={TOKEN}&reset", folder)


@pytest.fixture(scope="session")
def voila_server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("voila")
    panel_notebooks.write(folder)
    port = free_port()
    home = f"http://127.0.0.1:{port}"
    with serving(["voila", str(folder), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"], home, folder):
        yield Server(f"{home}/voila/render/{{notebook}}.ipynb", folder)


@contextmanager
def serving(command: list[str], ready: str, folder: Path) -> Iterator[None]:
    "The server as a process group of its own: its kernels end with it."
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "FINETUNE_LESSONS_SCALE": "smoke",
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent.parent), os.environ.get("PYTHONPATH")])),
    }
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for_server(process, ready, log)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_server(process: subprocess.Popen, ready: str, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(ready, timeout=30).close()
            return
        except OSError:
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.fail("Chromium is missing: `make browser` installs it")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium):
    "new_page(width, dark) opens a window; errors of its page fail the test."
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_page(width: int = 1280, dark: bool = False) -> Page:
        context = chromium.new_context(
            viewport={"width": width, "height": 2000},
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def open_lab(lab_server, new_page):
    def open_notebook(name: str, width: int = 1280, dark: bool = False) -> Lab:
        return Lab(new_page(width, dark), lab_server.url(name)).open()

    return open_notebook


@pytest.fixture(scope="session")
def axe(tmp_path_factory) -> str:
    "The source of axe-core, of the version in package-lock.json."
    folder = tmp_path_factory.mktemp("axe")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    if shutil.which("npm") is None:
        pytest.fail("npm is missing: the accessibility test gets axe-core with it")
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True)
    return (folder / "node_modules/axe-core/axe.min.js").read_text()
