"""The command line: one file per command, no logic. What goes wrong is turned into words and an exit code here.

Commands import what they call inside their functions, so that help and completion answer at once.
"""

from cdc_counter.cli.apply import apply
from cdc_counter.cli.demo import demo
from cdc_counter.cli.drop import drop
from cdc_counter.cli.init import init
from cdc_counter.cli.plan import plan
from cdc_counter.cli.program import program
from cdc_counter.cli.repair import repair
from cdc_counter.cli.run import run
from cdc_counter.cli.soak import soak
from cdc_counter.cli.status import status
from cdc_counter.cli.verify import verify
from cdc_counter.cli.watch import watch

main = program
for _command in (init, run, plan, apply, verify, repair, status, watch, drop, demo, soak):
    main.add_command(_command)
