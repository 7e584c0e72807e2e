"""Services of the operating system: files, locks, threads, resources, progress, subprocesses, pip, external editors."""
