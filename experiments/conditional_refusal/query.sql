/* Prompts of each kind: how many each setting refused, and at how many of them the refusal vector acted. */
select setting, kind, count(*) as n, count(*) filter (refused) as refused, count(*) filter (acted > 0) as steered,
       round(100 * avg(refused::int)) as refused_percent
from replies group by setting, kind order by setting, kind
