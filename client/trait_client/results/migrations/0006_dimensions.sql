-- Cells that steer several layers, LoRA adapters, and which weights were served.
ALTER TABLE cells ADD COLUMN layers INTEGER[];          -- steered together; `layer` is NULL where there are several, and
                                                        -- `layers` in rows that are older than this column
ALTER TABLE cells ADD COLUMN read_layer INTEGER;        -- replies are projected on it: the last of `layers`
ALTER TABLE cells ADD COLUMN checkpoint_digest VARCHAR; -- of a sample of the served weight files
ALTER TABLE cells ADD COLUMN adapter_digest VARCHAR;    -- of a sample of the adapter's
ALTER TABLE cells ADD COLUMN weights JSON;              -- type -> its share of the loaded weights' bytes

-- What read a reply back: 'none' the base model, else the adapter of that name; NULL where nothing was read (the text alone
-- gives the score, or a judge).
ALTER TABLE scores ADD COLUMN reader VARCHAR;
ALTER TABLE projections ADD COLUMN reader VARCHAR DEFAULT 'none';
UPDATE scores SET reader = 'none' WHERE name IN ('coherence', 'relevance', 'perplexity');

-- Every steered or control reply beside the baseline's on the same prompt, by each measure of its trait: 'lexical', 'judge',
-- 'judge_coherence', 'projection'. Two scores are compared only where they were taken in the same way.
CREATE OR REPLACE VIEW trial_deltas AS
WITH pairs AS (
    SELECT c.cell_id, c.setting_id, c.control_of, c.kind, c.trait, c.trait_sha256, coalesce(c.read_layer, c.layer) AS layer, c.seed,
           t.prompt_id, t.trial_id, b.trial_id AS baseline_trial_id
    FROM cells c
    JOIN trials t ON t.cell_id = c.cell_id AND t.status = 'done'
    JOIN trials b ON b.cell_id = c.baseline_id AND b.prompt_id = t.prompt_id AND b.status = 'done'
    WHERE c.kind <> 'baseline'
)
SELECT p.cell_id, p.setting_id, p.control_of, p.kind, p.trait, p.seed, p.prompt_id, p.trial_id, p.baseline_trial_id,
       s.name AS measure, s.value AS steered, b.value AS baseline, s.value - b.value AS delta
FROM pairs p
JOIN scores s ON s.trial_id = p.trial_id
             AND ((s.trait = p.trait AND s.name IN ('lexical', 'judge')) OR (s.trait = '*' AND s.name = 'judge_coherence'))
JOIN scores b ON b.trial_id = p.baseline_trial_id AND b.trait = s.trait AND b.name = s.name AND b.definition = s.definition
WHERE s.value IS NOT NULL AND b.value IS NOT NULL
UNION ALL
SELECT p.cell_id, p.setting_id, p.control_of, p.kind, p.trait, p.seed, p.prompt_id, p.trial_id, p.baseline_trial_id,
       'projection', s.value, b.value, s.value - b.value
FROM pairs p
JOIN projections s ON s.trial_id = p.trial_id AND s.sha256 = p.trait_sha256 AND s.layer = p.layer
JOIN projections b ON b.trial_id = p.baseline_trial_id AND b.sha256 = s.sha256 AND b.layer = s.layer
                  AND b.positions = s.positions AND b.reader = s.reader
WHERE s.value IS NOT NULL AND b.value IS NOT NULL;

-- One row per steered setting and measure. `effect`: the delta lies beyond every random direction's, on the side of its
-- sign, and its interval excludes 0; NULL where there is no control or no interval. `verdict` says it in words.
CREATE OR REPLACE VIEW cell_summary AS
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
),
judged AS (
    SELECT c.*, d.measure, d.n, d.seeds, d.baseline, d.steered, d.delta, d.sd, d.interval,
           k.n_controls, k.control_low, k.control_high,
           CASE WHEN k.n_controls IS NULL OR d.interval IS NULL THEN NULL
                WHEN d.delta > 0 THEN d.delta > k.control_high AND d.interval[1] > 0
                ELSE d.delta < k.control_low AND d.interval[2] < 0 END AS effect
    FROM setting_deltas d
    JOIN settings c USING (setting_id)
    LEFT JOIN controls k ON k.control_of = d.setting_id AND k.measure = d.measure
)
SELECT d.trait, d.method, d.layer, d.coefficient, d.unit, d.measure, d.n, d.baseline, d.steered, d.delta, d.sd,
       d.interval[1] AS ci_low, d.interval[2] AS ci_high,
       q.coherence, q.relevance, q.perplexity, q.distinct3, d.n_controls, d.control_low, d.control_high, d.effect,
       d.delta * CASE WHEN d.measure = 'lexical' THEN d.trait_sign ELSE 1 END AS trait_delta,
       q.n_failed, d.seeds, d.operation, d.scope, d.preserve_norm, d.precision, d.adapter, d.model,
       d.trait_sha256, d.max_tokens, d.temperature, d.top_p, d.system, d.versions, d.setting_id,
       q.judge_coherence, q.n_pending, coalesce(d.layers, [d.layer]) AS layers,
       CASE WHEN d.interval IS NULL THEN 'one prompt says nothing'
            WHEN d.interval[1] <= 0 AND d.interval[2] >= 0 THEN 'not distinguishable from 0'
            WHEN d.n_controls IS NULL THEN 'differs from 0, no control'
            WHEN d.effect THEN 'effect'
            ELSE 'no more than random directions' END AS verdict
FROM judged d
JOIN setting_quality q USING (setting_id);

-- For each trait (of a model, precision and adapter): the setting that moves it most in its own direction among those
-- whose mean coherence is at least `bar`.
CREATE OR REPLACE MACRO best_coherent_at(bar) AS TABLE
SELECT trait, method, layer, coefficient, unit, n, baseline, steered, delta, ci_low, ci_high, coherence,
       control_low, control_high, effect, measure, precision, adapter, model, verdict, n_pending,
       operation, scope, layers
FROM trait_summary
WHERE coherence >= bar
QUALIFY row_number() OVER (
    PARTITION BY trait, model, precision, adapter ORDER BY trait_delta DESC, coherence DESC, setting_id) = 1
ORDER BY trait, precision, adapter;

CREATE OR REPLACE VIEW best_coherent AS SELECT * FROM best_coherent_at(75);

-- Each method's best coherent setting of a trait, best method first.
CREATE OR REPLACE VIEW method_comparison AS
WITH best AS (
    SELECT * FROM trait_summary
    WHERE coherence >= 75
    QUALIFY row_number() OVER (
        PARTITION BY trait, method, model, precision, adapter ORDER BY trait_delta DESC, coherence DESC, setting_id) = 1
)
SELECT trait, rank() OVER (PARTITION BY trait, model, precision, adapter ORDER BY trait_delta DESC) AS place,
       method, layer, coefficient, unit, measure, n, baseline, steered, delta, sd, ci_low, ci_high, coherence,
       control_low, control_high, effect, precision, adapter, model, verdict, operation, scope, layers
FROM best
ORDER BY trait, precision, adapter, place;

-- The same setting at two precisions; the reference is the unquantised one, else the first by name. `same_vector`: one vector
-- file steered both; else each its own.
CREATE OR REPLACE VIEW precision_delta AS
WITH ranked AS (
    SELECT *, precision NOT IN ('float32', 'bfloat16', 'float16') AS quantised FROM trait_summary
)
SELECT r.trait, r.method, r.layer, r.coefficient, r.unit, r.operation, r.scope, r.adapter, r.measure,
       r.precision AS reference, o.precision, r.n AS reference_n, o.n,
       r.delta AS reference_delta, r.sd AS reference_sd, r.ci_low AS reference_ci_low, r.ci_high AS reference_ci_high,
       o.delta, o.sd, o.ci_low, o.ci_high, o.delta - r.delta AS difference,
       r.coherence AS reference_coherence, o.coherence, o.trait_sha256 = r.trait_sha256 AS same_vector,
       r.layers, r.verdict AS reference_verdict, o.verdict
FROM ranked r
JOIN ranked o
  ON (r.trait, r.method, r.layers, r.coefficient, r.unit, r.operation, r.scope, r.preserve_norm, r.adapter, r.measure)
   = (o.trait, o.method, o.layers, o.coefficient, o.unit, o.operation, o.scope, o.preserve_norm, o.adapter, o.measure)
 AND (r.max_tokens, r.temperature, r.top_p) = (o.max_tokens, o.temperature, o.top_p)
 AND r.system IS NOT DISTINCT FROM o.system
 AND (r.quantised, r.precision) < (o.quantised, o.precision)
ORDER BY ALL;
