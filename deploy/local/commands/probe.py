"""Imports a module and prints an `ImportProbe`: a process of its own, since libraries may crash it.

python -m penstock.deploy.local.commands.probe MODULE
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from penstock.deploy.local.commands.diagnosis import ImportProbe


def probe(name: str) -> ImportProbe:
    """What importing a module comes to."""
    try:
        module = importlib.import_module(name)
        return ImportProbe(
            version=str(getattr(module, "__version__", "")), gpus=_gpus(name, module)
        )
    except ModuleNotFoundError as error:
        return ImportProbe(missing=error.name or name)
    except Exception as error:  # whatever a library raises while it is loaded
        return ImportProbe(error=f"{type(error).__name__}: {error}")


def _gpus(name: str, module: Any) -> int | None:
    if name == "torch":
        return int(module.cuda.device_count()) if module.cuda.is_available() else 0
    if name == "onnxruntime" and "CUDAExecutionProvider" not in module.get_available_providers():
        return 0
    return None


if __name__ == "__main__":
    print(probe(sys.argv[1]).model_dump_json())
