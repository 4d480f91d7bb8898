"""The triptych command.

__main__.py  the commands and their options
"""
