"""What is not collected: the extension of the site's builder, where that is not installed (``make docs`` does it)."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("griffe") else ["docstring_roles.py"]
