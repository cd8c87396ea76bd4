"""A course on fine-tuning language models: one module a lesson, and the lab that they stand on."""


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
