"""How an export runs: engines, and the folder it writes in."""
