"""Names that are needed where nothing else of this folder is. Imports nothing."""

STDLIB = "python-stdlib"
"""The running Python's own library, as a source of text."""
META = "meta.json"
"""The file that makes a folder a prepared corpus."""
