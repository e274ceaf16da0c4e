"""What the tests stand on: servers, a TCP proxy that injects faults, the daemon as a process, deadlines."""
