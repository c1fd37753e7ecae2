/* Held-out Cohen's d of the probe minus that of difference of means, same scenarios, with its interval. */
select trait, n, string_agg(format('layer {}: {:+.1f} [{:.1f}, {:.1f}]', layer, d_gain, low, high), '; ' order by layer) as gain
from discrimination where method = 'probe' group by trait, n order by trait
