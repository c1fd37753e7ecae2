/* Held-out AUC [95 %] of every trait by method, at the layer that each file chose */
SELECT trait,
       any_value(layer) FILTER (method = 'mean_diff') AS layer,
       any_value(cell) FILTER (method = 'mean_diff') AS mean_diff,
       any_value(cell) FILTER (method = 'probe') AS probe,
       any_value(cell) FILTER (method = 'gradient') AS gradient,
       any_value(cell) FILTER (method = 'pca') AS pca,
       any_value(cell) FILTER (method = 'random') AS random
FROM (
    SELECT trait, method, layer, format('{:.2f} [{:.2f}, {:.2f}]', auc, auc_low, auc_high) AS cell
    FROM vector_layers WHERE chosen
)
GROUP BY trait ORDER BY trait
