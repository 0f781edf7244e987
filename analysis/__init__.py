"""From a table of runs to compute-optimal laws with intervals. Needs neither torch nor ray."""
