/* The search's setting beside the grid's best coherent one. */
with figures as (
    select 1 as part_of, format('{}: best of the grid', trait) as figure, model,
           format('{:+.0f} [{:+.0f}, {:+.0f}] (layer {}, coefficient {:g})', grid_delta, grid_ci_low, grid_ci_high, grid_layer,
                  grid_coefficient) as value
    from search_against_grid
    union all
    select 2, format('{}: search', trait), model,
           case when search_layer is null then 'nothing coherent'
                else format('{:+.0f} (layer {}, coefficient {:g})', search_delta, search_layer, search_coefficient) end
    from search_against_grid
    union all
    select 3, format('{}: within the interval, share of the trials', trait), model,
           format('{}, {:.0f} %', case when within_the_interval then 'yes' else 'no' end, 100 * share_of_trials)
    from search_against_grid
)
select figure, model, value from figures order by split_part(figure, ':', 1), part_of, model
