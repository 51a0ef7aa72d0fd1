"""Requests that are made of the published description: ``hatch run schema:test``."""
