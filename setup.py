"""Hand the metadata of settings.ini to setuptools."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
RESULTS = "finetune_lessons.results"
settings = ConfigParser(delimiters=["="])
settings.read(HERE / "settings.ini", encoding="utf-8")
meta = settings["DEFAULT"]


def lines(key: str) -> list[str]:
    """The non-empty lines of a multi-line value."""
    return [line for line in meta[key].splitlines() if line]


setup(
    version=meta["version"],
    description=meta["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=meta["author"],
    license_expression=meta["license"],
    keywords=meta["keywords"].split(),
    classifiers=lines("classifiers"),
    url=meta["git_url"],
    project_urls={"Repository": meta["git_url"], "Changelog": f"{meta['git_url']}/blob/{meta['branch']}/CHANGELOG.md"},
    packages=[*find_packages(include=["finetune_lessons", "finetune_lessons.*"]), RESULTS],
    package_dir={RESULTS: "nbs/results"},  # the reference tables, for lessons that are opened without the repository
    package_data={RESULTS: ["*.json"], "finetune_lessons": ["py.typed"]},
    install_requires=lines("requirements"),
    extras_require={extra: lines(f"{extra}_requirements") for extra in ("lab", "trackers", "dev")},
    entry_points={"console_scripts": lines("console_scripts")},
)
