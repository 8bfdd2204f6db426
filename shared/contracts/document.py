"""What documents of the store, and answers of a gateway, have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Read as it was written, and never changed. A later version may say more: that is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")
