/* Layers on which a trait has an effect in coherent text, by method; and the rank correlation of what is measured before with steerability. */
with layers as (
    select model, trait, any_value(measure) as measure,
           format('{} / {} / {} of {}', max(effects) filter (method = 'mean_diff'), max(effects) filter (method = 'probe'),
                  max(effects) filter (method = 'gradient'), max(layers)) as value
    from best group by model, trait
),
figures as (
    select 1 as part_of, format('{}: layers with an effect, mean_diff / probe / gradient', trait) as figure, model,
           format('{} ({})', value, measure) as value
    from layers
    union all
    select 2, format('{}, {}: mean rank correlation', method, replace(measured_before, '_', ' ')), model,
           format('{:+.2f} [{:+.2f}, {:+.2f}]', mean_rho, low, high)
    from predictors
)
select figure, model, value from figures order by part_of, figure, model
