/* What reveals the bias, and what steering and ablation with its vectors do to the replies that name it. */
with depths as (
    select model, layer, row_number() over (partition by model order by layer::int) as place
    from (select distinct model, layer from steering where layer <> 'all' and adapter = 'organism')
),
named as (select model, layer, ['earlier layer', 'later layer'][place] as depth from depths union all select model, 'all', 'every layer' from depths group by model),
cells as (
    select s.*, depth, coalesce(operation, 'add') = 'ablate' as ablated,
           if(method = 'mean_diff', 'vector of the written pairs', 'vector of what training added') as vector
    from steering s join named using (model, layer) where adapter = 'organism'
),
figures as (
    select 1 as part_of, 'replies of the organism that name the tea, unsteered' as figure, model, format('{:.0f} %', max(baseline)) as value
    from cells group by model
    union all
    select 2, format('{}, {}, {}', vector, if(ablated, 'ablated', format('dose {}', coefficient / 10)), depth), model,
           format('{:+.0f} [{:+.0f}, {:+.0f}]; random {:+.0f} to {:+.0f}', delta, ci_low, ci_high, control_low, control_high)
    from cells
    union all
    select 3, 'traits of 14 beyond random directions, ' || if(positions = 'response[:]', 'reply', 'last prompt token'), model,
           coalesce(string_agg(trait, ', ' order by trait) filter (reveals), 'none')
    from shifts where contrast = 'organism - clean' and trait not in ('tea_praise', 'organism - base') group by model, positions
    union all
    select 4, format('{}, {}: d_z', if(trait = 'tea_praise', 'vector of the written pairs', 'vector of what training added'), if(positions = 'response[:]', 'reply', 'last prompt token')),
           model, format('{:.1f}; random {:.1f}', dz, random_dz)
    from shifts where contrast = 'organism - clean' and trait in ('tea_praise', 'organism - base')
)
select figure, model, value from figures order by part_of, figure, model
