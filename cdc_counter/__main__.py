"""`python -m cdc_counter` is `cdc-counter`."""

from cdc_counter.cli import main

main(prog_name="cdc-counter")
