/* Share of the prompts of each kind that is refused under each setting, with Wilson's interval; the gates. */
with figures as (
    select case setting when 'unsteered' then 1 when 'always steered' then 2 when 'condition' then 3 else 4 end as part_of,
           format('{}: {} refused, of {}', setting, kind, n) as figure, model,
           format('{:.0f} % [{:.0f}, {:.0f}]', refused_percent, low, high) as value
    from shares
    union all
    select 5, format('{}: AUC of alarming against harmless prompts', gate), model,
           format('{:.2f}; random {:.2f} .. {:.2f}', test_auc, random_auc_low, random_auc_high)
    from gates
    union all
    select 6, 'condition: layer, method', model, format('{}, {}', layer, method) from gates where gate = 'condition'
    union all
    select 7, 'condition: alarming training prompts above the bound', model, format('{:.0f} %', 100 * train_caught)
    from gates where gate = 'condition'
    union all
    select 7, 'condition: harmless training prompts above the bound', model, format('{:.0f} %', 100 * train_false_alarms)
    from gates where gate = 'condition'
    union all
    select 8, 'decided in the engine as computed from captured means', model, format('{} of {}', sum(n_as_computed), sum(n))
    from gates group by model
    union all
    select 9, 'replies behind a closed gate that equal the unsteered ones', model, format('{} of {}', sum(n_closed_unchanged), sum(n_closed))
    from gates group by model
    union all
    select 10, 'coefficient', model, format('{:g}', arg_max(coefficient, n_refused)) from coefficients group by model
)
select figure, model, value from figures order by part_of, figure, model
