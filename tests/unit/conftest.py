"""Settings of hypothesis for all unit tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does: that is no property of ours.
settings.register_profile("pylxcfs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pylxcfs")
