"""The `triptych` command.

Files in reading order: __main__ (commands and options), settings (YAML and --set), output (what commands print), up,
down, client (gRPC), status, chat, replay, keys.
"""
