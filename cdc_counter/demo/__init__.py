"""The demo: a helpdesk on servers of its own, traffic that breaks naive counters, and a page to watch.

The helpdesk is an application like any other: it talks to PostgreSQL by itself and knows nothing of the
counters.
"""

from cdc_counter.demo.show import run_demo

__all__ = ["run_demo"]
