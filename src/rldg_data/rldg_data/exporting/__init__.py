"""How an export runs: engines, the folder it writes to, its report."""
