/* AUC of the judge's score: replies that the label puts above 50 against those below it, with its interval; how many it rated; the scores' spread. */
with figures as (
    select if(replies = 'labels', 1, 2) as part_of, if(trait = '*', 'coherence', trait) as rubric, *,
           case when auc_low is null then 'too few' else format('{:.2f} [{:.2f}, {:.2f}]', auc, auc_low, auc_high) end as area
    from agreement
)
select format('{}, {}', rubric, replies) as figure, model,
       format('{}; {} of {} rated, sd {}', area, n, n_labels, coalesce(format('{:.1f}', sd_score), '-')) as value
from figures order by part_of, rubric, model
