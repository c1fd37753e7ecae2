/* Each method against difference of means, paired by prompt (a prompt's delta averaged over the layers). */
with deltas as (
    select d.trait, d.prompt_id, c.method, avg(d.delta) as delta
    from trial_deltas d join cells c using (cell_id)
    where d.kind = 'steered' and d.measure = 'lexical' group by all
)
select m.method, m.trait, count(*) as n, round(avg(m.delta), 1) as delta, round(avg(r.delta), 1) as delta_mean_diff,
       round(avg(m.delta - r.delta), 1) as difference, round(stddev_samp(m.delta - r.delta), 1) as sd
from deltas m join deltas r using (trait, prompt_id)
where r.method = 'mean_diff' and m.method <> 'mean_diff'
group by m.method, m.trait order by m.method, m.trait
