"""``python -m pyml_nlp``, the same as ``pyml``."""

from .cli.main import main

if __name__ == "__main__":
    main()
