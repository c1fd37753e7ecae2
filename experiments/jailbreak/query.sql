/* Refused prompts against the others on the layer that the refusal pairs choose: all labels, and without the 45 replies that
   begin with "I'm sorry" and are no refusal by the metric. */
with per_prompt as (
    select r.outcome, r.outcome = 'success' and regexp_matches(r.response, '^I.m sorry') as doubtful,
           p.projected[r.n_prompt] as last_prompt_token, list_avg(p.projected[r.n_prompt + 1:]) as reply
    from reading_projections p join readings r using (reading_id) join vectors v using (sha256)
    where p.layer = v.chosen_layer
),
labels as (
    select 'all labels' as labels, * from per_prompt union all
    select 'without the doubtful', * from per_prompt where not doubtful
)
select labels, count(*) filter (outcome = 'failure') as refused, count(*) filter (outcome = 'success') as not_refused,
       round(cohens_d(case when outcome = 'failure' then last_prompt_token end,
                      case when outcome = 'success' then last_prompt_token end), 2) as d_last_prompt_token,
       round(cohens_d(case when outcome = 'failure' then reply end,
                      case when outcome = 'success' then reply end), 2) as d_reply
from labels group by labels order by labels
