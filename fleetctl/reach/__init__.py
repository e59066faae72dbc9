"""Machines over SSH: connections, commands and files, on one machine and on many."""
