/* KL of a trait's direction over the mean of two random ones at the same dose; the largest effect that costs at most 0.5 nats a token. */
with cheap as (
    select model, trait, max_by(coefficient, trait_delta) as coefficient, max(trait_delta) as trait_delta, max_by(kl, trait_delta) as kl
    from settings where kl <= 0.5 and verdict = 'effect' group by model, trait
),
named as (select distinct model, trait from settings),
figures as (
    select 1 as part_of, format('KL over that of random directions, coefficient {}', coefficient) as figure, model,
           format('{:.2f} [{:.2f}, {:.2f}]; beyond both: {} of {} traits', ratio, low, high, beyond_all_random, traits) as value
    from ratios
    union all
    select 2, format('{}: largest effect for at most 0.5 nats a token', trait), model,
           coalesce(format('{:+.0f} at {} ({:.3f} nats)', trait_delta, coefficient, kl), 'none')
    from named left join cheap using (model, trait)
)
select figure, model, value from figures order by part_of, figure, model
