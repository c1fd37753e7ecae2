/* Cosine with the direction of BF16, the delta of a BF16 vector, and the paired differences with the half-width that would decide. */
with figures as (
    select 1 as part_of, format('{}: cosine with BF16, {}', precision, trait) as figure, model, format('{:.3f}', cosine) as value
    from direction_cosines
    union all
    select 2, format('{}: delta of a BF16 vector, {}', precision, trait), model,
           format('{:+.0f} [{:+.0f}, {:+.0f}]', delta, ci_low, ci_high)
    from by_precision where method = 'mean_diff.bf16'
    union all
    select 3, format('{}: minus BF16, vector {}, all traits', precision, vector), model,
           format('{:+.0f} [{:+.0f}, {:+.0f}], n = {}', difference, low, high, n)
    from paired where trait = 'all traits' and measure = 'delta'
    union all
    select 4, format('{}: prompts for an interval of +-10 points', precision), model,
           format('{:.0f}', ceil(n * pow((high - low) / 20, 2)))
    from paired where trait = 'all traits' and measure = 'delta' and vector = 'of BF16'
    union all
    select 5, 'the bar: minus half of the delta at BF16', model, format('{:.0f}', -avg(delta) / 2)
    from by_precision where precision = 'bf16' and method = 'mean_diff.bf16' group by model
)
select figure, model, value from figures order by part_of, figure, model
