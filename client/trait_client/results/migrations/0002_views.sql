-- Cohen's d of two columns, pooled standard deviation:
-- (mean a - mean b) / sqrt(((n_a - 1) var_a + (n_b - 1) var_b) / (n_a + n_b - 2)).
CREATE MACRO cohens_d(a, b) AS
    (avg(a) - avg(b)) / nullif(sqrt(
        ((count(a) - 1) * var_samp(a) + (count(b) - 1) * var_samp(b)) / nullif(count(a) + count(b) - 2, 0)), 0);

-- The bootstrap of trait_core.statistics, number for number: Murmur3's finaliser of a counter is the random source,
-- so that the interval of the same deltas is the same everywhere and follows the rows as they are added.
CREATE MACRO xor_shift(x, bits) AS xor(x, x >> bits);
CREATE MACRO mix32(counter) AS
    xor_shift((xor_shift((xor_shift(
        (counter * 2654435769) & 4294967295, 16) * 2246822507) & 4294967295, 13) * 3266489909) & 4294967295, 16);
CREATE MACRO bootstrap_picks(n) AS
    list_transform(range(1000), lambda r: list_transform(range(n),
        lambda i: 1 + (mix32((1 + 65536 * r + i)::UBIGINT) % n::UBIGINT)::BIGINT));
-- 95 per cent percentile interval of the mean, [low, high]; NULL for fewer than two values.
CREATE MACRO bootstrap_interval(deltas, picks) AS
    CASE WHEN len(deltas) >= 2 THEN
        list_aggregate(list_transform(picks, lambda p: list_avg(list_select(deltas, p))), 'quantile_cont', [0.025, 0.975])
    END;

-- Every steered or control reply beside the baseline's on the same prompt, by each measure of its trait.
CREATE VIEW trial_deltas AS
WITH pairs AS (
    SELECT c.cell_id, c.setting_id, c.control_of, c.kind, c.trait, c.trait_sha256, c.layer, c.seed,
           t.prompt_id, t.trial_id, b.trial_id AS baseline_trial_id
    FROM cells c
    JOIN trials t ON t.cell_id = c.cell_id AND t.status = 'done'
    JOIN trials b ON b.cell_id = c.baseline_id AND b.prompt_id = t.prompt_id AND b.status = 'done'
    WHERE c.kind <> 'baseline'
)
SELECT p.cell_id, p.setting_id, p.control_of, p.kind, p.trait, p.seed, p.prompt_id, p.trial_id, p.baseline_trial_id,
       'lexical' AS measure, s.value AS steered, b.value AS baseline, s.value - b.value AS delta
FROM pairs p
JOIN scores s ON s.trial_id = p.trial_id AND s.trait = p.trait AND s.name = 'lexical'
JOIN scores b ON b.trial_id = p.baseline_trial_id AND b.trait = p.trait AND b.name = 'lexical'
WHERE s.value IS NOT NULL AND b.value IS NOT NULL
UNION ALL
SELECT p.cell_id, p.setting_id, p.control_of, p.kind, p.trait, p.seed, p.prompt_id, p.trial_id, p.baseline_trial_id,
       'projection', s.value, b.value, s.value - b.value
FROM pairs p
JOIN projections s ON s.trial_id = p.trial_id AND s.sha256 = p.trait_sha256 AND s.layer = p.layer
JOIN projections b ON b.trial_id = p.baseline_trial_id AND b.sha256 = s.sha256 AND b.layer = s.layer
                  AND b.positions = s.positions
WHERE s.value IS NOT NULL AND b.value IS NOT NULL;

-- Settings (cells, their seeds pooled) with the delta of each measure over prompts: a prompt's trials are averaged
-- over seeds first, so that n counts prompts.
CREATE VIEW setting_deltas AS
WITH by_prompt AS (
    SELECT setting_id, control_of, measure, prompt_id, count(DISTINCT seed) AS seeds,
           avg(steered) AS steered, avg(baseline) AS baseline, avg(delta) AS delta
    FROM trial_deltas
    GROUP BY setting_id, control_of, measure, prompt_id
),
settings AS (
    SELECT setting_id, control_of, measure, count(*) AS n, max(seeds) AS seeds, avg(baseline) AS baseline,
           avg(steered) AS steered, avg(delta) AS delta, stddev_samp(delta) AS sd,
           list(delta ORDER BY prompt_id) AS deltas
    FROM by_prompt
    GROUP BY setting_id, control_of, measure
),
picks AS (
    SELECT n, bootstrap_picks(n) AS picks FROM (SELECT DISTINCT n FROM settings WHERE control_of IS NULL)
)
SELECT s.setting_id, s.control_of, s.measure, s.n, s.seeds, s.baseline, s.steered, s.delta, s.sd,
       CASE WHEN s.control_of IS NULL THEN bootstrap_interval(s.deltas, p.picks) END AS interval
FROM settings s
LEFT JOIN picks p ON p.n = s.n;

CREATE VIEW setting_quality AS
SELECT c.setting_id,
       count(*) FILTER (t.status = 'failed') AS n_failed,
       avg(s.value) FILTER (s.name = 'coherence') AS coherence,
       avg(s.value) FILTER (s.name = 'relevance') AS relevance,
       median(s.value) FILTER (s.name = 'perplexity') AS perplexity,
       avg(s.value) FILTER (s.name = 'distinct3') AS distinct3
FROM cells c
JOIN trials t ON t.cell_id = c.cell_id
LEFT JOIN scores s ON s.trial_id = t.trial_id AND s.trait = '*'
GROUP BY c.setting_id;

-- One row per steered setting and measure. `effect`: the delta lies beyond every random direction's, on the side of its
-- sign, and its interval excludes 0; NULL where there is no control or no interval.
CREATE VIEW cell_summary AS
WITH controls AS (
    SELECT control_of, measure, count(*) AS n_controls, min(delta) AS control_low, max(delta) AS control_high
    FROM setting_deltas
    WHERE control_of IS NOT NULL
    GROUP BY control_of, measure
),
settings AS (
    SELECT setting_id, any_value(COLUMNS(* EXCLUDE (cell_id, setting_id, baseline_id, control_of, kind, seed)))
    FROM cells
    WHERE kind = 'steered'
    GROUP BY setting_id
)
SELECT c.trait, c.method, c.layer, c.coefficient, c.unit, d.measure, d.n, d.baseline, d.steered, d.delta, d.sd,
       d.interval[1] AS ci_low, d.interval[2] AS ci_high,
       q.coherence, q.relevance, q.perplexity, q.distinct3, k.n_controls, k.control_low, k.control_high,
       CASE WHEN k.n_controls IS NULL OR d.interval IS NULL THEN NULL
            WHEN d.delta > 0 THEN d.delta > k.control_high AND d.interval[1] > 0
            ELSE d.delta < k.control_low AND d.interval[2] < 0 END AS effect,
       d.delta * CASE WHEN d.measure = 'lexical' THEN c.trait_sign ELSE 1 END AS trait_delta,
       q.n_failed, d.seeds, c.operation, c.scope, c.preserve_norm, c.precision, c.adapter, c.model,
       c.trait_sha256, c.max_tokens, c.temperature, c.top_p, c.system, c.versions, d.setting_id
FROM setting_deltas d
JOIN settings c USING (setting_id)
JOIN setting_quality q USING (setting_id)
LEFT JOIN controls k ON k.control_of = d.setting_id AND k.measure = d.measure;

-- cell_summary by the measure that speaks for the trait: its lexical metric where it has one, else the projection.
CREATE VIEW trait_summary AS
SELECT * FROM cell_summary
QUALIFY row_number() OVER (PARTITION BY setting_id ORDER BY measure = 'lexical' DESC) = 1;

-- For each trait (of a model, precision and adapter): the setting that moves it most in its own direction among those
-- whose mean coherence is at least `bar`.
CREATE MACRO best_coherent_at(bar) AS TABLE
SELECT trait, method, layer, coefficient, unit, n, baseline, steered, delta, ci_low, ci_high, coherence,
       control_low, control_high, effect, measure, precision, adapter, model
FROM trait_summary
WHERE coherence >= bar
QUALIFY row_number() OVER (
    PARTITION BY trait, model, precision, adapter ORDER BY trait_delta DESC, coherence DESC, setting_id) = 1
ORDER BY trait, precision, adapter;

CREATE VIEW best_coherent AS SELECT * FROM best_coherent_at(75);

-- Each method's best coherent setting of a trait, best method first.
CREATE VIEW method_comparison AS
WITH best AS (
    SELECT * FROM trait_summary
    WHERE coherence >= 75
    QUALIFY row_number() OVER (
        PARTITION BY trait, method, model, precision, adapter ORDER BY trait_delta DESC, coherence DESC, setting_id) = 1
)
SELECT trait, rank() OVER (PARTITION BY trait, model, precision, adapter ORDER BY trait_delta DESC) AS place,
       method, layer, coefficient, unit, measure, n, baseline, steered, delta, sd, ci_low, ci_high, coherence,
       control_low, control_high, effect, precision, adapter, model
FROM best
ORDER BY trait, precision, adapter, place;

-- The same setting at two precisions; the reference is the unquantised one, else the first by name.
CREATE VIEW precision_delta AS
WITH ranked AS (
    SELECT *, precision NOT IN ('float32', 'bfloat16', 'float16') AS quantised FROM trait_summary
)
SELECT r.trait, r.method, r.layer, r.coefficient, r.unit, r.operation, r.scope, r.adapter, r.measure,
       r.precision AS reference, o.precision, r.n AS reference_n, o.n,
       r.delta AS reference_delta, r.sd AS reference_sd, r.ci_low AS reference_ci_low, r.ci_high AS reference_ci_high,
       o.delta, o.sd, o.ci_low, o.ci_high, o.delta - r.delta AS difference,
       r.coherence AS reference_coherence, o.coherence
FROM ranked r
JOIN ranked o
  ON (r.trait, r.method, r.layer, r.coefficient, r.unit, r.operation, r.scope, r.preserve_norm, r.adapter, r.measure)
   = (o.trait, o.method, o.layer, o.coefficient, o.unit, o.operation, o.scope, o.preserve_norm, o.adapter, o.measure)
 AND (r.max_tokens, r.temperature, r.top_p) = (o.max_tokens, o.temperature, o.top_p)
 AND r.system IS NOT DISTINCT FROM o.system
 AND (r.quantised, r.precision) < (o.quantised, o.precision)
ORDER BY ALL;
