"""Sphinx configuration."""

project = "tickrelay"
copyright = "2026, the tickrelay maintainers"
author = "the tickrelay maintainers"
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "tickrelay"
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]
