"""`python -m vpp_pipeline.cli`, where no `vpp` stands in the path."""

from vpp_pipeline.cli import main

main(prog_name="vpp")
