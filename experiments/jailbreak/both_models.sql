/* AUC of the refusal projection against the outcome, beside what 500 random directions reach, and the share of refusals. */
with figures as (
    select 1 as part_of, 'refused, of 364' as figure, model, format('{}', n_in) as value
    from separation where part = 'last prompt token' and compared = 'all prompts'
    union all
    select 2, 'layer that the pairs chose', model, format('{}', layer)
    from separation where part = 'last prompt token' and compared = 'all prompts'
    union all
    select case part when 'reply' then 4 else 3 end, format('AUC, {}, {}', part, compared), model,
           format('{:.2f} [{:.2f}, {:.2f}]; random {:.2f} .. {:.2f}', auc, auc_low, auc_high, random_auc_low, random_auc_high)
    from separation
    union all
    select 5, format('Cohen''s d, {}, {}', part, compared), model, format('{:.2f} [{:.2f}, {:.2f}]', d, d_low, d_high)
    from separation where part = 'last prompt token'
    union all
    select 6, format('refused, {}', wrapper), model, format('{:.0f} %', refused_percent)
    from wrappers where wrapper in ('plain', 'polite', 'persona', 'story', 'leave_to_refuse')
)
select figure, model, value from figures order by part_of, figure, model
