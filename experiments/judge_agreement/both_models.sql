/* AUC of the judge's score: replies that the label puts above 50 against those below it, with its interval; and the scores' spread. */
with figures as (
    select if(replies = 'labels', 1, 2) as part_of, if(trait = '*', 'coherence', trait) as rubric, *
    from agreement
)
select format('{}, {} replies of {}', rubric, n, replies) as figure, model,
       format('{:.2f} [{:.2f}, {:.2f}]; sd {:.1f}', auc, auc_low, auc_high, sd_score) as value
from figures order by part_of, rubric, model
