"""Installs sedona-nni: the library, and its plugin of NNI for those who ask for it.

The folders of the plugin, of the command line and of the experiments lie beside the library, and
links put them into its namespace: `trials` or `strategies` may well be names of the user's own, so
nothing but ``sedona_nni`` is installed. A checkout therefore has to keep links: git on Windows
does with ``core.symlinks``, and an archive of a forge does if what unpacks it does. What is built
from a checkout, wheel or source archive, has files in their place.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent
DOOR = (HERE / "sedona_nni" / "__init__.py").read_text(encoding="utf-8")  # not to be imported yet
(VERSION,) = re.findall(r'^__version__ = "(.+)"$', DOOR, re.MULTILINE)

NNI = [
    "nni==3.0",
    "setuptools>=64,<81",  # nnictl imports pkg_resources, removed in setuptools 81
    "pytorch-lightning>=2.4",  # nni.nas
    "optuna>=4.0",
    "sqlalchemy>=2.1",  # Optuna's file; the first that escapes its path
    "requests>=2.31",
    "psutil>=6",
]
REPORT = [
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "optuna>=4.0",  # which hyperparameters mattered
    "sqlalchemy>=2.1",
]
DASHBOARD = ["optuna-dashboard>=0.18"]
MODELS = ["timm>=1.0"]
TABLES = ["datasets>=3.0"]
EXPORT = ["onnx>=1.16", "onnxscript>=0.5"]
ALL = [*NNI, *REPORT, *DASHBOARD, *MODELS, *TABLES, *EXPORT]

setup(
    name="sedona-nni",
    version=VERSION,
    description="SEDONA and decoupled greedy learning as a plugin of Microsoft's NNI",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    # `experiments` has no Python in it
    packages=find_namespace_packages(include=["sedona_nni*"], exclude=["*__pycache__*"]),
    package_data={
        "": [
            *("py.typed", "*.jinja", "*.js", "*.woff", "*.yml", "*.sh", "*.json", "*.md", "*.c"),
            "*.h",
        ]
    },
    install_requires=[
        "torch>=2.9",
        "torchvision>=0.24",
        "numpy>=1.26",
        "pydantic>=2.7",
        "safetensors>=0.4",
        "scikit-learn>=1.4",  # the embedded digits; its scipy reads SVHN
        "typer>=0.26",  # before, it uses what click 8.5 deprecates
        "rich>=13",
        "pyyaml>=6",
        "filelock>=3.9",
        "packaging>=22",
        "typing-extensions>=4.8",
    ],
    extras_require={
        "nni": NNI,
        "report": REPORT,
        "dashboard": DASHBOARD,
        "models": MODELS,
        "tables": TABLES,
        "export": EXPORT,
        "all": ALL,
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "test": [
            *ALL,
            "onnxruntime>=1.18",  # what reads the files of ONNX in tests
            # pytest-xdist 3.8 keeps no group of tests together with 9.2, its issue 1386
            "pytest>=8,<9.2",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "playwright>=1.45",
            "ruff>=0.6",
            "mypy>=1.11",
            "types-PyYAML",
            "types-requests",
            "types-psutil",
        ],
    },
    entry_points={
        "console_scripts": [
            "sedona-nni=sedona_nni.command_line:main",
            "sedona-nni-trial=sedona_nni.trials.command:main",
        ]
    },
)
