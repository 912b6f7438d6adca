"""From points to samples: what is timed, in which order, by which clock, in which process."""
