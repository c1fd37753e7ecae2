select trait, grid_layer, grid_coefficient as grid_coef, grid_delta, grid_ci_low, grid_ci_high, grid_trials,
       search_layer, search_coefficient as search_coef, search_delta, search_coherence, search_trials, within_the_interval
from search_against_grid order by trait
