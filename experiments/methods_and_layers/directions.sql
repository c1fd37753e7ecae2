/* Each method beside difference of means: cosine of the directions, and held-out discrimination. Eight traits a row. */
select d.layer, d.method, count(*) as traits, round(median(d.cosine_mean_diff), 2) as cosine,
       round(min(d.cosine_mean_diff), 2) as lowest, round(median(d.held_out_auc), 2) as auc, round(min(d.held_out_auc), 2) as lowest_auc,
       round(median(d.held_out_d), 1) as d, round(median(m.held_out_d), 1) as d_mean_diff,
       count(*) filter (d.held_out_d > m.held_out_d) as higher_d
from directions d join directions m using (trait, layer)
where m.method = 'mean_diff'
group by d.layer, d.method order by d.layer, d.method
