-- Scores by a judge stand in `scores`: 'judge' of a trait, 'judge_coherence' of '*'. Mode 'logprobs' or 'sampled'; 'pending'
-- is a score that the judge failed to give: value NULL, the reason in `error`, tried again by `rescore` and the next sweep.
ALTER TABLE scores ADD COLUMN error VARCHAR;

-- A judge with a rubric; `definition` is what a score's `definition` refers to.
CREATE TABLE judges (
    definition  VARCHAR PRIMARY KEY,        -- digest of the rest; the endpoint's address is not part of it
    model       VARCHAR NOT NULL,
    trait       VARCHAR NOT NULL,           -- '*' is coherence
    rubric      VARCHAR NOT NULL,
    asking      JSON NOT NULL               -- scale, candidates, ...
);

-- Every answer of a judge by content (judge, rubric, prompt, reply): nothing is judged twice.
CREATE TABLE judgements (
    judgement_id       VARCHAR PRIMARY KEY,
    definition         VARCHAR NOT NULL REFERENCES judges (definition),
    value              DOUBLE NOT NULL,     -- 0 to 100
    mode               VARCHAR NOT NULL CHECK (mode IN ('logprobs', 'sampled')),
    mass               DOUBLE,              -- probability of the candidates that were numbers
    answer             VARCHAR NOT NULL,    -- as written
    prompt_tokens      INTEGER,
    completion_tokens  INTEGER,
    judged_at          TIMESTAMP NOT NULL
);

-- What a run asked for, whichever run generated the replies.
CREATE TABLE run_cells (
    run_id   VARCHAR NOT NULL REFERENCES runs (run_id),
    cell_id  VARCHAR NOT NULL REFERENCES cells (cell_id),
    PRIMARY KEY (run_id, cell_id)
);
INSERT INTO run_cells SELECT DISTINCT run_id, cell_id FROM trials;

CREATE TABLE run_judges (
    run_id      VARCHAR NOT NULL REFERENCES runs (run_id),
    definition  VARCHAR NOT NULL REFERENCES judges (definition),
    PRIMARY KEY (run_id, definition)
);

-- How far a judge agrees with given labels of one trait; intervals are 95 per cent bootstrap.
CREATE TABLE judge_agreement (
    definition     VARCHAR NOT NULL REFERENCES judges (definition),
    labels         VARCHAR NOT NULL,        -- digest of the labels
    n_labels       INTEGER NOT NULL,
    n              INTEGER NOT NULL,        -- labels that the judge gave a score for
    n_high         INTEGER NOT NULL,        -- labels above 50
    n_low          INTEGER NOT NULL,        -- labels below 50
    spearman       DOUBLE,
    spearman_low   DOUBLE,
    spearman_high  DOUBLE,
    auc            DOUBLE,
    auc_low        DOUBLE,
    auc_high       DOUBLE,
    logprobs       INTEGER NOT NULL,        -- scores that were weighted by probability; the others are as written
    measured_at    TIMESTAMP NOT NULL,
    PRIMARY KEY (definition, labels)
);

-- What the judge still owes, and why.
CREATE VIEW pending_scores AS
SELECT c.kind, c.setting_id, s.trait, s.name, s.error, p.text AS prompt, t.text AS reply, s.trial_id, t.cell_id, s.definition
FROM scores s
JOIN trials t ON t.trial_id = s.trial_id
JOIN cells c ON c.cell_id = t.cell_id
JOIN prompts p ON p.prompt_id = t.prompt_id
WHERE s.mode = 'pending';

-- Every steered or control reply beside the baseline's on the same prompt, by each measure of its trait: 'lexical', 'judge',
-- 'judge_coherence', 'projection'. Two scores are compared only where they were taken in the same way.
CREATE OR REPLACE VIEW trial_deltas AS
WITH pairs AS (
    SELECT c.cell_id, c.setting_id, c.control_of, c.kind, c.trait, c.trait_sha256, c.layer, c.seed,
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
                  AND b.positions = s.positions
WHERE s.value IS NOT NULL AND b.value IS NOT NULL;

CREATE OR REPLACE VIEW setting_quality AS
SELECT c.setting_id,
       count(DISTINCT t.trial_id) FILTER (t.status = 'failed') AS n_failed,
       avg(s.value) FILTER (s.name = 'coherence') AS coherence,
       avg(s.value) FILTER (s.name = 'relevance') AS relevance,
       median(s.value) FILTER (s.name = 'perplexity') AS perplexity,
       avg(s.value) FILTER (s.name = 'distinct3') AS distinct3,
       avg(s.value) FILTER (s.name = 'judge_coherence') AS judge_coherence,
       count(*) FILTER (s.mode = 'pending') AS n_pending
FROM cells c
JOIN trials t ON t.cell_id = c.cell_id
LEFT JOIN scores s ON s.trial_id = t.trial_id
GROUP BY c.setting_id;

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
       q.judge_coherence, q.n_pending,
       CASE WHEN d.interval IS NULL THEN 'one prompt says nothing'
            WHEN d.interval[1] <= 0 AND d.interval[2] >= 0 THEN 'not distinguishable from 0'
            WHEN d.n_controls IS NULL THEN 'differs from 0, no control'
            WHEN d.effect THEN 'effect'
            ELSE 'no more than random directions' END AS verdict
FROM judged d
JOIN setting_quality q USING (setting_id);

-- cell_summary by the measure that speaks for the trait: its lexical metric where it has one, else the judge, else the
-- projection.
CREATE OR REPLACE VIEW trait_summary AS
SELECT * FROM cell_summary
WHERE measure <> 'judge_coherence'
QUALIFY row_number() OVER (
    PARTITION BY setting_id ORDER BY CASE measure WHEN 'lexical' THEN 1 WHEN 'judge' THEN 2 ELSE 3 END) = 1;

-- For each trait (of a model, precision and adapter): the setting that moves it most in its own direction among those
-- whose mean coherence is at least `bar`.
CREATE OR REPLACE MACRO best_coherent_at(bar) AS TABLE
SELECT trait, method, layer, coefficient, unit, n, baseline, steered, delta, ci_low, ci_high, coherence,
       control_low, control_high, effect, measure, precision, adapter, model, verdict, n_pending
FROM trait_summary
WHERE coherence >= bar
QUALIFY row_number() OVER (
    PARTITION BY trait, model, precision, adapter ORDER BY trait_delta DESC, coherence DESC, setting_id) = 1
ORDER BY trait, precision, adapter;

CREATE OR REPLACE VIEW best_coherent AS SELECT * FROM best_coherent_at(75);

-- The same by the judge alone: its trait score, and its coherence score at least `bar`.
CREATE MACRO best_judged_at(bar) AS TABLE
SELECT trait, method, layer, coefficient, unit, n, baseline, steered, delta, ci_low, ci_high, judge_coherence, coherence,
       control_low, control_high, effect, precision, adapter, model, verdict, n_pending
FROM cell_summary
WHERE measure = 'judge' AND judge_coherence >= bar
QUALIFY row_number() OVER (
    PARTITION BY trait, model, precision, adapter ORDER BY trait_delta DESC, judge_coherence DESC, setting_id) = 1
ORDER BY trait, precision, adapter;

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
       control_low, control_high, effect, precision, adapter, model, verdict
FROM best
ORDER BY trait, precision, adapter, place;

-- The same setting at two precisions; the reference is the unquantised one, else the first by name.
CREATE OR REPLACE VIEW precision_delta AS
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
