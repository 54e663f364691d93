"""Package metadata from settings.ini, which is its single source."""

from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

settings = ConfigParser(interpolation=None)
settings.read(Path(__file__).parent / "settings.ini", encoding="utf8")
about = settings["DEFAULT"]


def requirements(text: str) -> list[str]:
    """Names and floors, without the reason written behind each."""
    return [line.split("|")[0].strip() for line in text.splitlines() if line.strip()]


extras = {
    name: requirements(text)
    for name, text in settings["extras"].items()
    if name not in settings.defaults()
}

setup(
    name=about["lib_name"],
    version=about["version"],
    description=about["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf8"),
    long_description_content_type="text/markdown",
    author=about["author"],
    license="Apache-2.0",
    keywords=about["keywords"],
    python_requires=f">={about['min_python']}",
    packages=find_packages(include=["manifold_xai*"]),
    package_data={"manifold_xai": ["py.typed", "*.pyi", "assets/*", "assets/*/*"]},
    install_requires=requirements(about["requirements"]),
    extras_require=extras,
    entry_points={"console_scripts": ["manifold-xai=manifold_xai.course.cli:main"]},
)
