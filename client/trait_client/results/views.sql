-- Macros and views of a result database; made anew whenever a writer opens the file.

-- Cohen's d of two columns, pooled standard deviation:
-- (mean a - mean b) / sqrt(((n_a - 1) var_a + (n_b - 1) var_b) / (n_a + n_b - 2)).
CREATE OR REPLACE MACRO cohens_d(a, b) AS
    (avg(a) - avg(b)) / nullif(sqrt(
        ((count(a) - 1) * var_samp(a) + (count(b) - 1) * var_samp(b)) / nullif(count(a) + count(b) - 2, 0)), 0);

-- The bootstrap of trait_core.statistics, number for number: Murmur3's finaliser of a counter is the random source,
-- so that the interval of the same deltas is the same everywhere and follows the rows as they are added.
CREATE OR REPLACE MACRO xor_shift(x, bits) AS xor(x, x >> bits);

CREATE OR REPLACE MACRO mix32(counter) AS
    xor_shift((xor_shift((xor_shift(
        (counter * 2654435769) & 4294967295, 16) * 2246822507) & 4294967295, 13) * 3266489909) & 4294967295, 16);

CREATE OR REPLACE MACRO bootstrap_picks(n) AS
    list_transform(range(1000), lambda r: list_transform(range(n),
        lambda i: 1 + (mix32((1 + 65536 * r + i)::UBIGINT) % n::UBIGINT)::BIGINT));

-- 95 per cent percentile interval of the mean, [low, high]; NULL for fewer than two values.
CREATE OR REPLACE MACRO bootstrap_interval(deltas, picks) AS
    CASE WHEN len(deltas) >= 2 THEN
        list_aggregate(list_transform(picks, lambda p: list_avg(list_select(deltas, p))), 'quantile_cont', [0.025, 0.975])
    END;

-- Every steered or control reply with the baseline's on the same prompt, by each measure of its trait: 'lexical', 'judge',
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

-- Deltas and quality of settings (cells, their seeds pooled), computed from the trials. A prompt's trials are averaged over
-- seeds first, so that n counts prompts.
CREATE OR REPLACE VIEW live_setting_deltas AS
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

CREATE OR REPLACE VIEW live_setting_quality AS
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

-- The summaries of a large database as the last writer stored them. `setting_deltas` and `setting_quality` read either these
-- or live_*: the writer points them at live_* with the first row that it writes, and at stored_* when it is done.
CREATE TABLE IF NOT EXISTS stored_setting_deltas AS SELECT * FROM live_setting_deltas LIMIT 0;
CREATE TABLE IF NOT EXISTS stored_setting_quality AS SELECT * FROM live_setting_quality LIMIT 0;
CREATE VIEW IF NOT EXISTS setting_deltas AS SELECT * FROM live_setting_deltas;
CREATE VIEW IF NOT EXISTS setting_quality AS SELECT * FROM live_setting_quality;

-- How often the gate of a gated setting was open: share of its replies in which the term acted at all, and mean number of
-- prompt positions and generated tokens at which it did.
CREATE OR REPLACE VIEW gate_openings AS
SELECT c.setting_id, avg(CASE WHEN t.acted_prompt + t.acted_generated > 0 THEN 1.0 ELSE 0.0 END) AS acted_in,
       avg(t.acted_prompt) AS acted_prompt, avg(t.acted_generated) AS acted_generated
FROM cells c
JOIN trials t ON t.cell_id = c.cell_id AND t.status = 'done'
WHERE c.gate IS NOT NULL AND t.acted_prompt IS NOT NULL
GROUP BY c.setting_id;

-- One row per steered setting and measure. `effect`: the delta lies beyond every random direction's, on the side of its
-- sign, and its interval excludes 0; NULL without a control or an interval. `verdict` says it in words.
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
       coalesce(d.raw, false) AS raw, d.chat_template_kwargs,
       CASE WHEN d.interval IS NULL THEN 'one prompt says nothing'
            WHEN d.interval[1] <= 0 AND d.interval[2] >= 0 THEN 'not distinguishable from 0'
            WHEN d.n_controls IS NULL THEN 'differs from 0, no control'
            WHEN d.effect THEN 'effect'
            ELSE 'no more than random directions' END AS verdict,
       coalesce(d.hook_point, 'resid_post') AS hook_point, d.gate, d.gate_sha256, g.acted_in, g.acted_prompt, g.acted_generated
FROM judged d
JOIN setting_quality q USING (setting_id)
LEFT JOIN gate_openings g USING (setting_id);

-- cell_summary with one measure a setting: the trait's lexical metric where it has one, else the judge, else the projection.
CREATE OR REPLACE VIEW trait_summary AS
SELECT * FROM cell_summary
WHERE measure <> 'judge_coherence'
QUALIFY row_number() OVER (
    PARTITION BY setting_id ORDER BY CASE measure WHEN 'lexical' THEN 1 WHEN 'judge' THEN 2 ELSE 3 END) = 1;

-- For each trait (of a model, precision, adapter, hook point and gate): the setting that moves it most in its own direction among
-- those whose mean coherence is at least `bar`.
CREATE OR REPLACE MACRO best_coherent_at(bar) AS TABLE
SELECT trait, method, layer, coefficient, unit, n, baseline, steered, delta, ci_low, ci_high, coherence,
       control_low, control_high, effect, measure, precision, adapter, model, verdict, n_pending,
       operation, scope, layers, hook_point, gate, acted_in, setting_id
FROM trait_summary
WHERE coherence >= bar
QUALIFY row_number() OVER (
    PARTITION BY trait, model, precision, adapter, hook_point, gate ORDER BY trait_delta DESC, coherence DESC, setting_id) = 1
ORDER BY trait, precision, adapter, hook_point, gate NULLS FIRST;

CREATE OR REPLACE VIEW best_coherent AS SELECT * FROM best_coherent_at(75);

-- The same by the judge alone: its trait score, and its coherence score at least `bar`.
CREATE OR REPLACE MACRO best_judged_at(bar) AS TABLE
SELECT trait, method, layer, coefficient, unit, n, baseline, steered, delta, ci_low, ci_high, judge_coherence, coherence,
       control_low, control_high, effect, precision, adapter, model, verdict, n_pending, hook_point, gate
FROM cell_summary
WHERE measure = 'judge' AND judge_coherence >= bar
QUALIFY row_number() OVER (
    PARTITION BY trait, model, precision, adapter, hook_point, gate
    ORDER BY trait_delta DESC, judge_coherence DESC, setting_id) = 1
ORDER BY trait, precision, adapter, hook_point, gate NULLS FIRST;

-- Each method's best coherent setting of a trait at a hook point and under a gate, best method first.
CREATE OR REPLACE VIEW method_comparison AS
WITH best AS (
    SELECT * FROM trait_summary
    WHERE coherence >= 75
    QUALIFY row_number() OVER (
        PARTITION BY trait, method, model, precision, adapter, hook_point, gate
        ORDER BY trait_delta DESC, coherence DESC, setting_id) = 1
)
SELECT trait, rank() OVER (PARTITION BY trait, model, precision, adapter, hook_point, gate ORDER BY trait_delta DESC) AS place,
       method, layer, coefficient, unit, measure, n, baseline, steered, delta, sd, ci_low, ci_high, coherence,
       control_low, control_high, effect, precision, adapter, model, verdict, operation, scope, layers, hook_point, gate
FROM best
ORDER BY trait, precision, adapter, hook_point, gate NULLS FIRST, place;

-- The same setting at two precisions; the reference is the unquantised one, else the first by name. `same_vector`: the same
-- vector file steered both.
CREATE OR REPLACE VIEW precision_delta AS
WITH ranked AS (
    SELECT *, precision NOT IN ('float32', 'bfloat16', 'float16') AS quantised FROM trait_summary
)
SELECT r.trait, r.method, r.layer, r.coefficient, r.unit, r.operation, r.scope, r.adapter, r.measure,
       r.precision AS reference, o.precision, r.n AS reference_n, o.n,
       r.delta AS reference_delta, r.sd AS reference_sd, r.ci_low AS reference_ci_low, r.ci_high AS reference_ci_high,
       o.delta, o.sd, o.ci_low, o.ci_high, o.delta - r.delta AS difference,
       r.coherence AS reference_coherence, o.coherence, o.trait_sha256 = r.trait_sha256 AS same_vector,
       r.layers, r.verdict AS reference_verdict, o.verdict, r.hook_point, r.gate
FROM ranked r
JOIN ranked o
  ON (r.trait, r.method, r.layers, r.coefficient, r.unit, r.operation, r.scope, r.preserve_norm, r.adapter, r.measure, r.hook_point)
   = (o.trait, o.method, o.layers, o.coefficient, o.unit, o.operation, o.scope, o.preserve_norm, o.adapter, o.measure, o.hook_point)
 AND (r.max_tokens, r.temperature, r.top_p) = (o.max_tokens, o.temperature, o.top_p)
 AND (r.system, r.raw, r.chat_template_kwargs, r.gate) IS NOT DISTINCT FROM (o.system, o.raw, o.chat_template_kwargs, o.gate)
 AND (r.quantised, r.precision) < (o.quantised, o.precision)
ORDER BY ALL;

-- The damage of each setting, from the largest set that it was measured on.
CREATE OR REPLACE VIEW setting_damage AS
SELECT * FROM damage
QUALIFY row_number() OVER (PARTITION BY setting_id ORDER BY n_passages + n_questions DESC, measured_at DESC) = 1;

-- Effect beside damage: a row for each setting whose damage was measured. `on_front`: it moves the trait in its own direction,
-- and no other setting of the trait moves it as far with less KL, or farther with as little. Lengths are tokens of a reply.
CREATE OR REPLACE VIEW effect_and_damage AS
WITH lengths AS (
    SELECT c.setting_id, avg(t.n_generated) AS length, avg(b.n_generated) AS baseline_length
    FROM cells c
    JOIN trials t ON t.cell_id = c.cell_id AND t.status = 'done'
    JOIN trials b ON b.cell_id = c.baseline_id AND b.prompt_id = t.prompt_id AND b.status = 'done'
    WHERE c.kind = 'steered' AND c.setting_id IN (SELECT setting_id FROM damage)
    GROUP BY c.setting_id
),
random AS (
    SELECT c.control_of AS setting_id, count(*) AS n_random, avg(d.kl) AS random_kl, min(d.kl) AS random_kl_low, max(d.kl) AS random_kl_high
    FROM (SELECT DISTINCT control_of, setting_id FROM cells WHERE kind = 'control') c
    JOIN setting_damage d ON d.setting_id = c.setting_id
    GROUP BY c.control_of
),
measured AS (
    SELECT s.trait, s.method, s.layer, s.coefficient, s.unit, s.measure, s.n, s.trait_delta, s.delta, s.ci_low, s.ci_high, s.verdict,
           d.kl, d.kl_low, d.kl_high, d.nll_rise, d.accuracy, d.baseline_accuracy, d.accuracy_delta, d.accuracy_low, d.accuracy_high,
           l.length, l.baseline_length, s.distinct3, s.coherence, d.n_passages, d.n_questions, s.operation, s.scope, s.hook_point,
           s.gate, s.layers, s.precision, s.adapter, s.model, s.setting_id, r.n_random, r.random_kl, r.random_kl_low, r.random_kl_high
    FROM trait_summary s
    JOIN setting_damage d USING (setting_id)
    JOIN lengths l USING (setting_id)
    LEFT JOIN random r USING (setting_id)
)
SELECT m.*, m.trait_delta > 0 AND NOT EXISTS (
           SELECT 1 FROM measured o
           WHERE (o.trait, o.model, o.precision, o.adapter, o.measure) = (m.trait, m.model, m.precision, m.adapter, m.measure)
             AND o.trait_delta >= m.trait_delta AND o.kl <= m.kl AND (o.trait_delta > m.trait_delta OR o.kl < m.kl)
       ) AS on_front
FROM measured m;

-- The settings of which no other has more effect for less damage, least damage first.
CREATE OR REPLACE VIEW pareto_front AS
SELECT * EXCLUDE (on_front) FROM effect_and_damage
WHERE on_front
ORDER BY trait, model, precision, adapter, measure, kl;

-- The latest search of each vector; `trait-client steer --trait` uses it.
CREATE OR REPLACE VIEW best_settings AS
SELECT * FROM searches
QUALIFY row_number() OVER (PARTITION BY trait_sha256 ORDER BY found_at DESC) = 1
ORDER BY trait;

-- Scores that the judge has not given yet, and why.
CREATE OR REPLACE VIEW pending_scores AS
SELECT c.kind, c.setting_id, s.trait, s.name, s.error, p.text AS prompt, t.text AS reply, s.trial_id, t.cell_id, s.definition
FROM scores s
JOIN trials t ON t.trial_id = s.trial_id
JOIN cells c ON c.cell_id = t.cell_id
JOIN prompts p ON p.prompt_id = t.prompt_id
WHERE s.mode = 'pending';

-- Evidence of each vector on each layer, from its file's metadata.
CREATE OR REPLACE VIEW vector_layers AS
WITH keyed AS (
    SELECT *, unnest(json_keys(metadata, '$.layers')) AS key FROM vectors
),
entries AS (
    SELECT *, json_extract(metadata, '$.layers."' || key || '"') AS e FROM keyed
)
SELECT trait, method, key::INTEGER AS layer, key::INTEGER = chosen_layer AS chosen,
       (e->>'$.auc')::DOUBLE AS auc,
       (e->>'$.auc_interval[0]')::DOUBLE AS auc_low, (e->>'$.auc_interval[1]')::DOUBLE AS auc_high,
       (e->>'$.accuracy')::DOUBLE AS accuracy,
       (e->>'$.accuracy_interval[0]')::DOUBLE AS accuracy_low, (e->>'$.accuracy_interval[1]')::DOUBLE AS accuracy_high,
       (e->>'$.cohens_d')::DOUBLE AS cohens_d, (e->>'$.polarity')::DOUBLE AS polarity,
       (e->>'$.separation')::DOUBLE AS separation, (e->>'$.centre')::DOUBLE AS centre,
       (e->>'$.residual_norm')::DOUBLE AS residual_norm,
       (e->>'$.massive_share')::DOUBLE AS massive_share,
       (e->>'$.massive_share_of_direction')::DOUBLE AS massive_share_of_direction,
       (e->>'$.cosine_previous_layer')::DOUBLE AS cosine_previous_layer,
       e->'$.cosine_methods' AS cosine_methods, model, name, sha256
FROM entries;

-- Every cosine in both directions, with names instead of hashes.
CREATE OR REPLACE VIEW vector_cosines AS
WITH both_ways AS (
    SELECT sha256, other_sha256, layer, cosine FROM cosines
    UNION ALL
    SELECT other_sha256, sha256, layer, cosine FROM cosines
)
SELECT v.trait, v.method, o.trait AS other_trait, o.method AS other_method, c.layer, c.cosine, v.model,
       c.sha256, c.other_sha256
FROM both_ways c
JOIN vectors v ON v.sha256 = c.sha256
JOIN vectors o ON o.sha256 = c.other_sha256;

-- One row for each token and direction. A prompt token's value is that of its own position; a response token's is that of the
-- position before it, which produced it. So the last prompt position has two rows: one for its own token, one
-- for the first of the response.
CREATE OR REPLACE VIEW token_projections AS
WITH rows AS (
    SELECT r.reading_id, r.prompt_id, r.outcome, r.n_prompt, r.model, r.prompt_set, r.metadata, p.sha256, p.layer,
           unnest(range(len(r.tokens))) AS position,
           unnest(r.tokens) AS token,
           unnest(list_concat(p.projected[:r.n_prompt], p.projected[r.n_prompt:len(r.tokens) - 1])) AS value
    FROM reading_projections p
    JOIN readings r ON r.reading_id = p.reading_id
    WHERE r.read_for IS NULL
)
SELECT t.prompt_id, t.outcome, CASE WHEN t.position < t.n_prompt THEN 'prompt' ELSE 'response' END AS part,
       t.position, t.token, v.trait, v.name AS vector, t.layer, t.value, t.model, t.sha256, t.reading_id,
       t.prompt_set, t.metadata
FROM rows t
JOIN vectors v ON v.sha256 = t.sha256;

-- One row for each part (prompt, response) of a reading and direction: its place on many traits is its fingerprint. Means are
-- over the part's tokens, as in `token_projections`, without the positions 0 to 3, which are attention sinks.
-- `projection`: minus the vector file's centre, residual units. `separations`: the same over the distance between the
-- vector's two training classes, so that 0.5 is the average positive example and -0.5 the average negative one. `cosine`: of the uncentred projection;
-- NULL unless `trait-client project --cosine` stored it.
CREATE OR REPLACE VIEW fingerprints AS
WITH parts AS (
    SELECT reading_id, 'prompt' AS part, 5 AS first, n_prompt AS last
    FROM readings WHERE read_for IS NULL
    UNION ALL
    SELECT reading_id, 'response', greatest(5, n_prompt), n_prompt + n_response - 1
    FROM readings WHERE read_for IS NULL
),
directions AS MATERIALIZED (
    SELECT d.sha256, d.layer, v.name, v.trait, v.method,
           nullif(abs((v.metadata->>('$.layers."' || d.layer || '".separation'))::DOUBLE), 0) AS separation
    FROM (SELECT DISTINCT sha256, layer FROM reading_projections) d
    JOIN vectors v ON v.sha256 = d.sha256
),
means AS (
    SELECT r.reading_id, t.part, t.last - t.first + 1 AS n, p.sha256, p.layer,
           list_avg(p.projected[t.first:t.last]) AS projection, list_avg(p.cosines[t.first:t.last]) AS cosine
    FROM parts t
    JOIN readings r ON r.reading_id = t.reading_id
    JOIN reading_projections p ON p.reading_id = t.reading_id
    WHERE t.last >= t.first
)
SELECT r.prompt_id, r.prompt_set, m.part, d.name AS vector, d.trait, m.layer, m.n, m.projection,
       m.projection / d.separation AS separations, m.cosine, r.outcome, r.metadata, d.method, r.model, m.sha256, m.reading_id
FROM means m
JOIN directions d ON d.sha256 = m.sha256 AND d.layer = m.layer
JOIN readings r ON r.reading_id = m.reading_id;

-- Projections by token, as in `token_projections`: a response's token has the value of the position before it.
CREATE OR REPLACE MACRO by_token(projected, n_prompt, n_tokens) AS
    list_concat(projected[:n_prompt], projected[n_prompt:n_tokens - 1]);

-- Texts that two models read, with both models' values by token. A prompt that several texts begin with is `shown` once.
CREATE OR REPLACE VIEW variant_readings AS
SELECT t.comparison_id, t.prompt_id, t.text, t.text = min(t.text) OVER (PARTITION BY t.comparison_id, t.prompt_id, p.sha256, p.layer)
       AS shows_prompt, r.n_prompt, r.tokens, p.sha256, p.layer,
       by_token(p.projected, r.n_prompt, len(r.tokens)) AS base, by_token(q.projected, r.n_prompt, len(r.tokens)) AS variant,
       t.base_reading_id, t.variant_reading_id
FROM variant_texts t
JOIN readings r ON r.reading_id = t.base_reading_id
JOIN reading_projections p ON p.reading_id = t.base_reading_id
JOIN reading_projections q ON q.reading_id = t.variant_reading_id AND q.sha256 = p.sha256 AND q.layer = p.layer;

-- One row for each token that two models read, and direction. `text` is 'prompt', or whose reply the token is of.
CREATE OR REPLACE VIEW variant_differences AS
WITH rows AS (
    SELECT comparison_id, prompt_id, text, shows_prompt, n_prompt, sha256, layer, unnest(range(len(tokens))) AS position,
           unnest(tokens) AS token, unnest(base) AS base, unnest(variant) AS variant
    FROM variant_readings
)
SELECT c.name, c.base_model, c.variant_model, r.prompt_id, CASE WHEN r.position < r.n_prompt THEN 'prompt' ELSE r.text END AS text,
       r.position, r.token, v.trait, v.name AS vector, r.layer, r.base, r.variant, r.variant - r.base AS difference,
       (r.variant - r.base) / nullif((v.metadata->>('$.layers."' || r.layer || '".separation'))::DOUBLE, 0) AS separations,
       r.sha256, r.comparison_id
FROM rows r
JOIN variant_comparisons c USING (comparison_id)
JOIN vectors v ON v.sha256 = r.sha256
WHERE r.position >= r.n_prompt OR r.shows_prompt;

-- Means of each clause that two models read.
CREATE OR REPLACE VIEW variant_clauses AS
WITH rows AS (
    SELECT b.*, r.sha256, r.layer, list_avg(r.base[b.start + 1:b.stop]) AS base, list_avg(r.variant[b.start + 1:b.stop]) AS variant
    FROM variant_clause_bounds b
    JOIN variant_readings r ON r.comparison_id = b.comparison_id AND r.prompt_id = b.prompt_id
                           AND (r.text = b.text OR (b.text = 'prompt' AND r.shows_prompt))
)
SELECT c.name, c.base_model, c.variant_model, r.prompt_id, r.text, r.clause, r.start, r.stop, r.words, v.trait, v.name AS vector,
       r.layer, r.base, r.variant, r.variant - r.base AS difference,
       (r.variant - r.base) / nullif((v.metadata->>('$.layers."' || r.layer || '".separation'))::DOUBLE, 0) AS separations,
       r.sha256, r.comparison_id
FROM rows r
JOIN variant_comparisons c USING (comparison_id)
JOIN vectors v ON v.sha256 = r.sha256;

-- One row for each patched cell, with its token in the target and the partner's in the source: the first of a whole part's.
CREATE OR REPLACE VIEW patch_cells AS
SELECT p.name, p.model, c.hook_point, c.layer, c.part, c.position, p.target_tokens[c.position + 1] AS token,
       p.source_tokens[c.source_positions[1] + 1] AS source_token, c.n, c.restored, c.difference, p.source_difference,
       p.target_difference, p.answer_tokens, p.patched_at, p.patching_id
FROM patches c
JOIN patchings p USING (patching_id);
