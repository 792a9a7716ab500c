"""Helpers without a home of their own; import the module you need."""
