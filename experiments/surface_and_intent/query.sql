/* Cohen's d of the joint class against the three others, for each projection alone and for surface minus intent. */
with replies as (
    select r.prompt_id, r.outcome, v.trait, list_avg(p.projected[r.n_prompt + 1:]) / l.separation as value
    from reading_projections p
    join readings r using (reading_id) join vectors v using (sha256) join vector_layers l using (sha256, layer)
),
wide as (
    select outcome, outcome in ('eager useless', 'flattering false') as wanted,
           max(value) filter (trait in ('helpfulness_expressed', 'sycophancy')) as surface,
           max(value) filter (trait in ('helpfulness_intent', 'honesty_observed')) as intent
    from replies group by prompt_id, outcome
)
select case when outcome[:5] in ('eager', 'plain') then 'helpfulness' else 'sycophancy' end as pair, count(*) as n,
       round(cohens_d(case when wanted then surface end, case when not wanted then surface end), 2) as surface,
       round(cohens_d(case when wanted then -intent end, case when not wanted then -intent end), 2) as minus_intent,
       round(cohens_d(case when wanted then surface - intent end, case when not wanted then surface - intent end), 2) as joint
from wide group by 1 order by 1
