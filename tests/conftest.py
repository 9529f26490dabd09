"""What holds for every test: none is judged by the clock. Speed goals live in benchmarks/."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
