"""What the generated models stand on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ApiModel(BaseModel):
    """A value of the API. Fields that this version does not know yet are kept, not refused."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)
