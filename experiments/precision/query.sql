/* The delta of each vector at each precision, with its interval, coherence and random directions. */
select trait, precision, method, round(baseline) as baseline, round(steered) as steered,
       format('{:+d} [{:d}, {:d}]', round(delta)::int, round(ci_low)::int, round(ci_high)::int) as delta,
       round(coherence) as coherence, format('{:d}..{:d}', round(control_low)::int, round(control_high)::int) as random, verdict
from cell_summary where measure = 'lexical' order by trait, method, precision
