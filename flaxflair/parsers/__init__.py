"""Flags of the subcommands of `flaxflair`. Imports no large libraries, so that `--help` is fast."""
