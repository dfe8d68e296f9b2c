"""`python -m xal_ray.cli` does the same as `xal-ray`, where the package travels without being installed."""

from xal_ray.cli import main

main()
