"""From records to statements: times, intervals, scores, claims, the frontier, one table."""
