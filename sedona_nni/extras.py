"""What is installed only on request, and how to get it.

``pip install .`` in a checkout is the library and those commands that need no more. Experiments
under NNI are the extra ``nni``, pages with pictures ``report``, timm's models ``models``, Hugging
Face's data sets ``tables``, files of ONNX ``export``, and ``all`` is everything.
"""

from __future__ import annotations

__all__ = ["how_to_get"]

# By the module that is not found: what it is part of, and the extra that has it
_EXTRAS = {
    **dict.fromkeys(("nni", "pkg_resources", "psutil", "requests"), ("NNI", "nni")),
    **dict.fromkeys(("lightning", "pytorch_lightning"), ("Lightning", "nni")),
    **dict.fromkeys(("optuna", "sqlalchemy"), ("Optuna", "report")),
    "datasets": ("Hugging Face datasets", "tables"),
    "jinja2": ("Jinja", "report"),
    "timm": ("timm", "models"),
    **dict.fromkeys(("onnx", "onnxscript", "onnx_ir"), ("ONNX", "export")),
    "matplotlib": ("Matplotlib", "report"),
}


def how_to_get(missing: ModuleNotFoundError) -> str | None:
    """Return what is missing and how to install it, None of what is in no extra.

    For example ``"NNI: pip install '.[nni]' in a checkout"``.
    """
    part, extra = _EXTRAS.get((missing.name or "").partition(".")[0], (None, None))
    return None if part is None else f"{part}: pip install '.[{extra}]' in a checkout"
