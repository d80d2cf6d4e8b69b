import os

# Small operations crawl on a busy machine when OpenMP threads spin; must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
