-- Deltas and quality by setting, computed from the trials (live_*) or kept from the end of the last writing (stored_*), so that
-- a large database answers at once. `setting_deltas` and `setting_quality` are one or the other: the writer points them at
-- live_* with the first row that it writes, and at stored_* when it is done.

CREATE VIEW live_setting_deltas AS
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

CREATE VIEW live_setting_quality AS
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

CREATE TABLE stored_setting_deltas AS SELECT * FROM live_setting_deltas LIMIT 0;
CREATE TABLE stored_setting_quality AS SELECT * FROM live_setting_quality LIMIT 0;
CREATE OR REPLACE VIEW setting_deltas AS SELECT * FROM live_setting_deltas;
CREATE OR REPLACE VIEW setting_quality AS SELECT * FROM live_setting_quality;
