"""The notebooks that the browser tests open."""

import json
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
SETUP = f"""import sys
sys.path.insert(0, {json.dumps(str(HERE))})
from finetune_lessons.lab.panel.explorer import explore
from finetune_lessons.lab.panel.panel import LogRange, Panel
from tiny_run import make_run
import math
knobs = dict(lr=LogRange(1e-4, 1e2, start=1e-2), steps=[60, 60000], seed=range(5))"""

NOTEBOOKS = {
    "journey": [
        SETUP,
        'panel = Panel(make_run, ask="Which learning rate will win?", **knobs)\npanel',
        "print('other cell', panel.knobs.values, list(panel.results['outcome']))",
    ],
    "plain": [SETUP, "panel = Panel(make_run, **knobs)\npanel", "print('trained', list(panel.results['outcome']))"],
    "restart": [SETUP, "panel = Panel(make_run, **knobs)\npanel"],
    "pump": [SETUP, "panel = Panel(make_run, drive='pump', **knobs)\npanel"],
    "pair": [
        SETUP,
        "first = Panel(make_run, **knobs)\nkept = globals().setdefault('kept', first)\nfirst",
        "second = Panel(make_run, **knobs)\nsecond",
        "print('outcomes', list(kept.results['outcome']), list(second.results['outcome']))",
    ],
    "explore": [
        SETUP,
        """def probabilities(temperature=1.0):
    weights = {name: math.exp(z / temperature) for name, z in {"negative": 0.0, "positive": 2.0}.items()}
    return {name: w / sum(weights.values()) for name, w in weights.items()}
explorer = explore(probabilities, temperature=(0.1, 5.0))
explorer""",
        "print('temperature', explorer.values['temperature'])",
    ],
    "labels": [
        """from finetune_lessons.lab import Labeller, read_csv
texts = [f"Text {i}: " + ("a waste of time", "a joy")[i % 2] for i in range(10)]
labeller = Labeller(texts, ["blame", "praise"], "labels.csv")
labeller""",
        "print(labeller.data()['label'][:], read_csv('labels.csv'))",
    ],
    "drawn": [
        "from finetune_lessons.lab import draw_model, load_encoder\n"
        "from finetune_lessons.lora import add_lora\n"
        'model, _ = load_encoder("minilm", seed=0)\n'
        "draw_model(add_lora(model, r=8))"
    ],
    "shown": [
        SETUP,
        """panel = Panel(make_run, ask="Which learning rate ends lowest?", lock=["seed"], **knobs)
for lr in (0.003, 0.03, 0.3, 1.0):
    panel.run(lr=lr)
panel""",
    ],
}


def write(folder: Path) -> None:
    for name, cells in NOTEBOOKS.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
