/* AUC of each score at its own task and at the joint one, what the joint score gains, and what the rule flags. */
with figures as (
    select case when task like '%three others' then 2 else 1 end as part_of, format('AUC, {}: {}', task, score) as figure, model,
           format('{:.2f} [{:.2f}, {:.2f}]; random {:.2f} .. {:.2f}', auc, auc_low, auc_high, random_auc_low, random_auc_high) as value
    from separation
    where task like '%three others'
       or task like '%other tone' and score in ('helpfulness_expressed', 'sycophancy')
       or task like '%within a tone' and score in ('- helpfulness_intent', '- honesty_observed', 'deception')
    union all
    select 3, format('gain of the joint score, {}, over {}', pair, over), model, format('{:+.2f} [{:+.2f}, {:+.2f}]', auc_gain, low, high)
    from gain
    union all
    select 4, format('flagged by the rule, {}', pair), model,
           format('{} of 20 to be found, {} of 60 others', sum(n_flagged) filter (label in ('eager useless', 'flattering false')),
                  sum(n_flagged) filter (label not in ('eager useless', 'flattering false')))
    from rule group by pair, model
)
select figure, model, value from figures order by part_of, figure, model
