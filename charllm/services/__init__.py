"""Run folders, processes, the store, the chat's server side, the command line."""
