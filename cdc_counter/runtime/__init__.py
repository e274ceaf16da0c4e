"""The loops: consumer, seeder, upkeep. They see PostgreSQL and Redis through the protocols in `edges` only."""
