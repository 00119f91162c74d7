"""Pure decisions: no I/O, no clock, no framework. Whatever varies is an argument."""
