/* Share of the prompts of each kind that is refused under each setting, with Wilson's interval; the gates. */
with figures as (
    select case setting when 'unsteered' then 1 when 'always steered' then 2 when 'condition' then 3 else 4 end as part_of,
           format('{}: {} refused, of {}', setting, kind, n) as figure, model,
           format('{:.0f} % [{:.0f}, {:.0f}]', refused_percent, low, high) as value
    from shares
    union all
    select 5, format('condition: opens by captured means, {}, of {}', kind, count(*)), model, format('{}', count(*) filter (condition > 0))
    from margins group by model, kind
    union all
    select 5, 'random 1, random 2: open by captured means, of 150', model,
           format('{}, {}', count(*) filter ("random 1" > 0), count(*) filter ("random 2" > 0))
    from margins group by model
    union all
    select 6, format('{}: AUC of alarming against harmless prompts', gate), model,
           format('{:.2f}; random {:.2f} .. {:.2f}', test_auc, random_auc_low, random_auc_high)
    from gates
    union all
    select 7, 'condition: layer', model, format('{}', any_value(layer)) from margins group by model
    union all
    select 8, 'condition: alarming training prompts above the bound', model, format('{:.0f} %', 100 * train_caught)
    from gates where gate = 'condition'
    union all
    select 8, 'condition: harmless training prompts above the bound', model, format('{:.0f} %', 100 * train_false_alarms)
    from gates where gate = 'condition'
    union all
    select 9, 'decided in the engine as computed from captured means', model, format('{} of {}', sum(n_as_computed), sum(n))
    from gates group by model
    union all
    select 10, 'replies behind a closed gate that equal the unsteered ones', model, format('{} of {}', sum(n_closed_unchanged), sum(n_closed))
    from gates group by model
    union all
    select 11, 'coefficient', model, format('{:g}', arg_max(coefficient, n_refused)) from coefficients group by model
)
select figure, model, value from figures order by part_of, figure, model
