"""The version, in one place below every stage that writes it down."""

__version__ = "0.1.0"
