"""The adapters that come with tcdecomp: a module for each framework, named in an entry point."""
