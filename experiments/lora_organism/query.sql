/* Paired shift of the same text, organism minus clean adapter, in residual units, with d_z = mean / standard deviation. */
select positions, trait, o.layer, count(*) as n, round(avg(o.value - c.value), 2) as mean_shift,
       round(avg(o.value - c.value) / stddev_samp(o.value - c.value), 2) as dz
from text_projections o join text_projections c using (positions, trait, text)
where o.model = 'organism' and c.model = 'clean'
group by positions, trait, o.layer order by positions, abs(dz) desc
