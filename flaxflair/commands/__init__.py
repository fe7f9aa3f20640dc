"""Implementation of the subcommands of `flaxflair`; their flags are defined in `parsers`."""
