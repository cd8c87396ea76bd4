"""Write floors.txt: the lowest versions that settings.ini admits, and the newest that these allow of all the rest."""

import re
import subprocess
import sys
from configparser import ConfigParser

TESTS = ("pytest", "pytest-xdist", "hypothesis")  # what runs the tests, as constraints.txt has it
CUDA = ("nvidia-", "cuda-", "triton==")  # what torch needs beside it differs from build to build: left to pip
HEADER = """\
# What `make floors` installs: the lowest versions that settings.ini admits and the newest that these allow of the rest;
# torch as in constraints.txt, since the index has no older build for the CPU alone. Written by `make pins`.
"""

settings = ConfigParser(delimiters=["="])
settings.read("settings.ini", encoding="utf-8")
meta = settings["DEFAULT"]
with open("constraints.txt", encoding="utf-8") as file:
    pins = dict(line.split("==") for line in file.read().splitlines() if "==" in line)

bounds = "".join(meta[f"{extra}requirements"] + "\n" for extra in ("", "lab_", "trackers_"))
lowest = re.findall(r"^([\w-]+)>=([\w.]+)", bounds, re.MULTILINE)
tested = dict(lowest) | {name: pins[name] for name in (*TESTS, "torch")}
wanted = "".join(f"{name}=={version}\n" for name, version in tested.items())
command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
command += ["--python-version", meta["min_python"], "-"]
found = subprocess.run(command, input=wanted, capture_output=True, text=True)
if found.returncode:
    sys.exit(found.stderr)
kept = [line for line in found.stdout.splitlines() if not line.startswith(CUDA)]
with open("floors.txt", "w", encoding="utf-8") as file:
    file.write(HEADER + "\n".join(kept) + "\n")
