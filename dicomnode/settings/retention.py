"""How long files stay: `[retention]` of `node.toml`."""

from __future__ import annotations

from pydantic import Field

from dicomnode.settings.section import Section


class RetentionSettings(Section):
    """Files of studies that are done go after so many days; what the database says of them stays."""

    inputs_days: float | None = Field(default=None, gt=0.0)
    """Received instances. Not set: they stay."""
    results_days: float | None = Field(default=None, gt=0.0)
    """Results that we made. Not set: they stay."""
    commitments_days: float = Field(default=365.0, gt=0.0)
    """Finished requests for storage commitment, in both directions; what came of them stays in the trail."""
