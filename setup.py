"""Packages of the wheel; everything else about it stands in pyproject.toml."""

from setuptools import find_packages, setup

# Folder at the top of the tree -> where the installed package finds it.
OUTSIDE = {
    "orchestrator.containers": "containers",
    "orchestrator.schemas": "schemas",
    "orchestrator.templates": "templates",
}

setup(
    packages=[*find_packages(include=["orchestrator*", "trainer*"]), *OUTSIDE],
    package_dir=OUTSIDE,
)
