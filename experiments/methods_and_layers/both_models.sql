/* Effects of each method by layer, its paired difference from the difference of means, and how the probe separates. */
with depth as (
    select distinct model, layer, dense_rank() over (partition by model order by layer) as place from by_method
),
named as (select model, layer, ['early', 'middle', 'late'][place] as depth, place from depth),
figures as (
    select 1 as part_of, place, format('effects of 8 traits, {} layer, {}', depth, method) as figure, model,
           format('{}; median delta {:+.0f}', count(*) filter (verdict = 'effect'), median(delta)) as value
    from by_method join named using (model, layer) group by model, place, depth, method
    union all
    select 2, 0, format('{} minus mean_diff, all prompts', method), model,
           format('{:+.0f} [{:+.0f}, {:+.0f}] points, n = {}', difference, low, high, n)
    from paired where trait = 'all traits'
    union all
    select 3, place, format('held-out d of the probe over that of mean_diff, {} layer: median, most', depth), model,
           format('{:.1f}, {:.1f}', median(p.held_out_d / m.held_out_d), max(p.held_out_d / m.held_out_d))
    from directions p join directions m using (model, trait, layer) join named using (model, layer)
    where p.method = 'probe' and m.method = 'mean_diff' group by model, place, depth
)
select figure, model, value from figures order by part_of, place, figure, model
