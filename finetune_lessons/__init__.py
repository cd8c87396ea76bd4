"""A course on fine-tuning language models: one module a lesson, and the lab that they stand on."""

import os

# Threads of torch that wait for work spin. Beside another program on the same cores that made a step ten times as long
# as it had to be; so few turns cost a step two percent. It has to be said before torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> str:
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    """The installed version, or that of the source checkout where nothing is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        from configparser import ConfigParser
        from pathlib import Path

        settings = ConfigParser(delimiters=["="])
        settings.read(Path(__file__).parents[1] / "settings.ini", encoding="utf-8")
        return settings["DEFAULT"]["version"]
