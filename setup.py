"""Installs sedona-nni: the library and the three packages that plug it into NNI."""

from setuptools import find_packages, setup

setup(
    name="sedona-nni",
    version="0.1.0",
    description="SEDONA and decoupled greedy learning as a plugin of Microsoft's NNI",
    license="MIT",
    python_requires=">=3.10",
    # The plugin and the command line lie beside the library; links put them into its namespace,
    # as `trials` or `strategies` may well be names of the user's own.
    packages=["sedona_nni", *(f"sedona_nni.{name}" for name in find_packages("sedona_nni"))],
    package_data={
        "sedona_nni": ["py.typed"],
        "sedona_nni.reporting": ["*.jinja"],
        "sedona_nni.strategies.nni_border": ["*.js"],
    },
    install_requires=[
        "torch>=2.9",
        "torchvision>=0.24",
        "numpy>=1.26",
        "pydantic>=2.7",
        "safetensors>=0.4",
        "scikit-learn>=1.4",  # the embedded digits; its scipy reads SVHN
        "typer>=0.12",
        "rich>=13",
        "optuna>=4.0",
        "sqlalchemy>=2.1",  # Optuna's file; the first that escapes its path
        "pyyaml>=6",
        "matplotlib>=3.8",  # the pictures of a report
        "jinja2>=3.1",
        "nni==3.0",
        "setuptools<81",  # nnictl imports pkg_resources, removed in setuptools 81
        "pytorch-lightning>=2.4",  # nni.nas
        "requests>=2.31",
        "psutil>=6",
        "filelock>=3.9",
        "typing-extensions>=4.8",
    ],
    extras_require={
        "dashboard": ["optuna-dashboard>=0.18"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "test": [
            "optuna-dashboard>=0.18",
            "pytest>=8",
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
    entry_points={"console_scripts": ["sedona-nni=sedona_nni.command_line:main"]},
)
