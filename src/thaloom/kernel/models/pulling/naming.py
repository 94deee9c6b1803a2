"""What a pulled model is called where nobody says."""

from __future__ import annotations

import re
from pathlib import Path

from thaloom.kernel.models.foreign import GGUF
from thaloom.kernel.models.store import name_from
from thaloom.kernel.models.types import HubModel, ModelName


def default_name(model: HubModel) -> ModelName:
    """From the repository's name; a GGUF file that was chosen becomes the tag."""
    base = name_from(Path(model.repo.rpartition("/")[2]))
    if model.choice is None:
        return base
    tag = re.sub(r"[^a-z0-9._-]+", "-", model.choice.rpartition("/")[2].lower().removesuffix(GGUF))
    return ModelName(base.name, tag[-63:].lstrip(".-"))
