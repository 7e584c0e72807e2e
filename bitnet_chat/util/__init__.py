"""Services of the operating system: files, locks, threads, resources, progress, pip, external editors."""
