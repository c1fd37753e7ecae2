select asking->>'$.scale' as scale, asking->>'$.min_mass' as min_mass, trait, n, n_labels, n_high, n_low,
       round(spearman, 2) as rho, round(spearman_low, 2) as rho_low, round(spearman_high, 2) as rho_high,
       round(auc, 2) as auc, round(auc_low, 2) as auc_low, round(auc_high, 2) as auc_high
from judge_agreement join judges using (definition)
order by scale desc, min_mass desc, trait desc
