"""The version of pyml_core, pyml_nn and pyml_nlp: their metadata is made from this file."""

__version__ = "0.1.0"
