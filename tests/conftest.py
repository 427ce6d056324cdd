"""Settings of every test run."""

from hypothesis import HealthCheck, settings

# Timing is checked by benchmarks, never by a test: a slow machine must not turn one red.
settings.register_profile("jsm", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jsm")
