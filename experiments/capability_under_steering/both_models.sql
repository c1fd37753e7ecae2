/* Accuracy without steering, and its change at each dose: of each trait with its interval, of the three random directions their range. */
with figures as (
    select 1 as part_of, 0 as coefficient, format('{}: accuracy, unsteered', harness) as figure, model, format('{:.2f}', accuracy) as value
    from accuracy where vector = 'none'
    union all
    select 2, coefficient, format('{}: {}, coefficient {}', harness, vector, coefficient::int), model,
           format('{:+.2f} [{:+.2f}, {:+.2f}]', delta, low, high)
    from accuracy where vector <> 'none' and not starts_with(vector, 'random')
    union all
    select 3, coefficient, format('{}: three random directions, coefficient {}', harness, coefficient::int), any_value(model),
           format('{:+.2f} to {:+.2f}', min(delta), max(delta))
    from accuracy where starts_with(vector, 'random') group by model, harness, coefficient
)
select figure, model, value from figures order by part_of, figure, coefficient, model
