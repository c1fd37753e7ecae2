-- Tables of a result database; made once, when the first writer opens the file. The views over them are in views.sql; a
-- change goes into upgrades.py as well, for the databases that exist.
-- An id is a digest of everything that affects the output, so that nothing is stored twice. Times are UTC.

CREATE TABLE schema_version (
    version      INTEGER NOT NULL,          -- of these tables
    views        VARCHAR NOT NULL           -- digest of views.sql as the last writer applied it
);

CREATE TABLE runs (
    run_id       VARCHAR PRIMARY KEY,
    experiment   VARCHAR NOT NULL,
    definition   JSON NOT NULL,             -- the experiment's values
    started_at   TIMESTAMP NOT NULL,
    finished_at  TIMESTAMP,
    status       VARCHAR NOT NULL CHECK (status IN ('running', 'ok', 'partial', 'interrupted')),
    n_trials     BIGINT NOT NULL,           -- planned, those of earlier runs included
    message      VARCHAR                    -- why it is partial
);

CREATE TABLE prompts (
    prompt_id    VARCHAR PRIMARY KEY,       -- digest of the text
    text         VARCHAR NOT NULL
);

CREATE TABLE vectors (
    sha256         VARCHAR PRIMARY KEY,
    name           VARCHAR NOT NULL,        -- in the registry, when it was first used
    trait          VARCHAR NOT NULL,
    method         VARCHAR NOT NULL,
    model          VARCHAR NOT NULL,
    config_digest  VARCHAR NOT NULL,
    chosen_layer   INTEGER NOT NULL,
    metadata       JSON NOT NULL
);

-- Cosine of two vectors' directions on one layer; each pair is stored once, the smaller sha256 first.
CREATE TABLE cosines (
    sha256        VARCHAR NOT NULL REFERENCES vectors (sha256),
    other_sha256  VARCHAR NOT NULL REFERENCES vectors (sha256),
    layer         INTEGER NOT NULL,
    cosine        DOUBLE NOT NULL,
    PRIMARY KEY (sha256, other_sha256, layer)
);

-- One configuration. A baseline has no trait, vector, layer or coefficient.
CREATE TABLE cells (
    cell_id               VARCHAR PRIMARY KEY,
    setting_id            VARCHAR NOT NULL, -- the cell without its seed
    baseline_id           VARCHAR NOT NULL, -- the unsteered cell of the same model and sampling; its own id for a baseline
    control_of            VARCHAR,          -- a control's steered setting
    kind                  VARCHAR NOT NULL CHECK (kind IN ('baseline', 'steered', 'control')),
    trait                 VARCHAR,
    trait_sign            INTEGER,          -- -1 where more of the trait lowers its metric
    trait_sha256          VARCHAR REFERENCES vectors (sha256), -- replies are projected on it: the trait's, for controls too
    sha256                VARCHAR REFERENCES vectors (sha256), -- the vector that is applied
    method                VARCHAR,
    layer                 INTEGER,          -- NULL where several layers are steered
    coefficient           DOUBLE,
    unit                  VARCHAR,
    operation             VARCHAR,
    scope                 VARCHAR,
    preserve_norm         BOOLEAN,
    precision             VARCHAR NOT NULL,
    adapter               VARCHAR NOT NULL,
    seed                  BIGINT NOT NULL,
    system                VARCHAR,
    max_tokens            INTEGER NOT NULL,
    temperature           DOUBLE NOT NULL,
    top_p                 DOUBLE NOT NULL,
    model                 VARCHAR NOT NULL,
    config_digest         VARCHAR NOT NULL,
    chat_template_digest  VARCHAR,
    dtype                 VARCHAR NOT NULL,
    quantization          VARCHAR,
    versions              JSON NOT NULL,
    layers                INTEGER[],        -- steered together
    read_layer            INTEGER,          -- replies are projected on it: the last of `layers`
    checkpoint_digest     VARCHAR,          -- of a sample of the served weight files
    adapter_digest        VARCHAR,          -- of a sample of the adapter's
    weights               JSON,             -- type -> its share of the loaded weights' bytes
    raw                   BOOLEAN,          -- prompts were sent as they are, without the chat template
    chat_template_kwargs  JSON,             -- variables of the chat template; NULL for none
    hook_point            VARCHAR,          -- the place in a block that is steered; NULL before version 14: resid_post
    gate                  VARCHAR,          -- condition under which the term acts, as `harmful@9>0.5`; NULL for none
    gate_sha256           VARCHAR           -- the gate's vector
);

-- One cell on one prompt.
CREATE TABLE trials (
    trial_id       VARCHAR PRIMARY KEY,
    cell_id        VARCHAR NOT NULL REFERENCES cells (cell_id),
    prompt_id      VARCHAR NOT NULL REFERENCES prompts (prompt_id),
    run_id         VARCHAR NOT NULL REFERENCES runs (run_id),
    status         VARCHAR NOT NULL CHECK (status IN ('done', 'failed')),
    text           VARCHAR,                 -- the answer, which scores and judges read
    finish_reason  VARCHAR,
    n_prompt       INTEGER,
    n_generated    INTEGER,                 -- tokens of the reasoning included
    steering       JSON,                    -- the service's report of what was applied
    seconds        DOUBLE,                  -- from request to answer
    error          VARCHAR,
    finished_at    TIMESTAMP NOT NULL,
    reasoning      VARCHAR,                 -- what a reasoning model wrote before the answer; NULL for none
    acted_prompt     INTEGER,               -- prompt positions at which the term acted; with a gate those that were computed, and
                                            -- not read from the prefix cache; NULL before version 14, and for a baseline
    acted_generated  INTEGER                -- generated tokens at which it acted
);

-- A missing row is a score that is still to be taken; a NULL value is a score that the reply does not have.
CREATE TABLE scores (
    trial_id    VARCHAR NOT NULL REFERENCES trials (trial_id),
    trait       VARCHAR NOT NULL,           -- '*' for scores that no trait defines
    name        VARCHAR NOT NULL,           -- lexical, coherence, relevance, perplexity, distinct3; by a judge: judge (of a
                                            -- trait), judge_coherence (of '*')
    value       DOUBLE,
    definition  VARCHAR NOT NULL,           -- digest of how it is taken
    mode        VARCHAR NOT NULL DEFAULT 'computed', -- by a judge logprobs or sampled; pending: the judge failed to give it,
                                            -- `rescore` and the next sweep try again
    error       VARCHAR,                    -- why it is pending
    reader      VARCHAR,                    -- what read the reply back: 'none' the base model, else the adapter of that
                                            -- name; NULL where nothing was read (the text or a judge gives the score)
    PRIMARY KEY (trial_id, trait, name)
);

-- Mean projection of a reply, read back unsteered, minus the vector file's centre; residual units.
CREATE TABLE projections (
    trial_id   VARCHAR NOT NULL REFERENCES trials (trial_id),
    sha256     VARCHAR NOT NULL REFERENCES vectors (sha256),
    layer      INTEGER NOT NULL,
    positions  VARCHAR NOT NULL,
    value      DOUBLE,
    reader     VARCHAR DEFAULT 'none',      -- as in `scores`
    PRIMARY KEY (trial_id, sha256, layer, positions)
);

-- The cells that a run asked for, whichever run generated the replies.
CREATE TABLE run_cells (
    run_id   VARCHAR NOT NULL REFERENCES runs (run_id),
    cell_id  VARCHAR NOT NULL REFERENCES cells (cell_id),
    PRIMARY KEY (run_id, cell_id)
);

-- A judge with a rubric; a score's `definition` refers to it.
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

-- The result of each coefficient search: the setting that moves a trait most in its own direction, among the coherent ones
-- that the search tried. Its trials are in `trials`, as a sweep's are.
CREATE TABLE searches (
    run_id        VARCHAR NOT NULL REFERENCES runs (run_id),
    trait         VARCHAR NOT NULL,
    trait_sha256  VARCHAR NOT NULL REFERENCES vectors (sha256),
    setting_id    VARCHAR NOT NULL,
    layer         INTEGER NOT NULL,
    coefficient   DOUBLE NOT NULL,
    unit          VARCHAR NOT NULL,
    measure       VARCHAR NOT NULL,
    n             INTEGER NOT NULL,
    baseline      DOUBLE NOT NULL,
    steered       DOUBLE NOT NULL,
    delta         DOUBLE NOT NULL,
    ci_low        DOUBLE,
    ci_high       DOUBLE,
    coherence     DOUBLE NOT NULL,
    bar           DOUBLE NOT NULL,          -- mean coherence that was asked for; 0 where max_kl was
    n_trials      INTEGER NOT NULL,         -- steered replies that the search took for this vector
    verdict       VARCHAR NOT NULL,
    found_at      TIMESTAMP NOT NULL,
    kl            DOUBLE,                   -- damage of the setting, nats a token; NULL where coherence was asked for
    max_kl        DOUBLE,                   -- KL that a setting could have, in place of `bar`
    PRIMARY KEY (run_id, trait_sha256)
);

-- How far a setting changes the model on texts on which it should change nothing: neutral passages and multiple-choice
-- questions, read as prompts. Intervals are 95 per cent bootstrap over passages or questions.
CREATE TABLE damage (
    setting_id         VARCHAR NOT NULL,    -- of a steered setting in `cells`
    definition         VARCHAR NOT NULL,    -- digest of the passages and questions
    kl                 DOUBLE NOT NULL,     -- from the unsteered model, nats a token; at most the exact one
    kl_low             DOUBLE,
    kl_high            DOUBLE,
    coverage           DOUBLE NOT NULL,     -- part of the unsteered probability that was compared token by token
    nll_rise           DOUBLE NOT NULL,     -- how much less likely the passages become, nats a token
    nll_rise_low       DOUBLE,
    nll_rise_high      DOUBLE,
    n_passages         INTEGER NOT NULL,
    baseline_accuracy  DOUBLE,              -- share of questions answered rightly, unsteered; NULL without questions
    accuracy           DOUBLE,              -- the same, steered
    accuracy_delta     DOUBLE,
    accuracy_low       DOUBLE,
    accuracy_high      DOUBLE,
    n_questions        INTEGER NOT NULL,
    measured_at        TIMESTAMP NOT NULL,
    PRIMARY KEY (setting_id, definition)
);

-- A prompt of a prompt set with its reply, token by token. Identity: model, texts, prompt id and, of a generated reply, its
-- length limit.
CREATE TABLE readings (
    reading_id     VARCHAR PRIMARY KEY,
    run_id         VARCHAR NOT NULL REFERENCES runs (run_id),
    prompt_id      VARCHAR NOT NULL,        -- of the prompt set
    outcome        VARCHAR,                 -- label of the prompt set
    messages       JSON,                    -- the chat; NULL for raw text
    text           VARCHAR,                 -- raw text; NULL for a chat
    response       VARCHAR,                 -- given, or generated; NULL where only the prompt was read
    given          BOOLEAN NOT NULL,        -- the prompt set gave the response
    max_tokens     INTEGER,                 -- of a generated response
    finish_reason  VARCHAR,                 -- of a generated response
    n_prompt       INTEGER NOT NULL,
    n_response     INTEGER NOT NULL,
    token_ids      INTEGER[] NOT NULL,      -- prompt, then response
    tokens         VARCHAR[] NOT NULL,      -- their texts; '' for a token that ends within a character
    model          VARCHAR NOT NULL,
    config_digest  VARCHAR NOT NULL,
    finished_at    TIMESTAMP NOT NULL,
    chat_template_kwargs  JSON,             -- variables of the chat template; NULL for none
    prompt_set     VARCHAR,                 -- name of its file without the ending
    metadata       JSON,                    -- the prompt's further fields, from the last run's prompt set; NULL for none
    adapter        VARCHAR,                 -- LoRA adapter that read; NULL is the base model
    weights_digest VARCHAR,                 -- of a sample of the bytes of the adapter's files, or of the model's; NULL if unknown
    read_for       VARCHAR                  -- 'comparison' of two models; NULL: the prompt set itself
);

-- Projections of a reading on one direction, minus the vector file's centre; residual units.
CREATE TABLE reading_projections (
    reading_id  VARCHAR NOT NULL REFERENCES readings (reading_id),
    sha256      VARCHAR NOT NULL REFERENCES vectors (sha256),
    layer       INTEGER NOT NULL,
    centre      DOUBLE NOT NULL,
    projected   FLOAT[] NOT NULL,           -- by position; a response's last token is not read
    cosines     FLOAT[],                    -- uncentred projection / norm of the stream, by position; NULL if not asked for
    PRIMARY KEY (reading_id, sha256, layer)
);

-- Two models that read the same tokens of a prompt set. Identity: prompt set, both models, length of generated replies.
CREATE TABLE variant_comparisons (
    comparison_id     VARCHAR PRIMARY KEY,
    run_id            VARCHAR NOT NULL,        -- the first run of it
    name              VARCHAR NOT NULL,        -- of the prompt set
    base_model        VARCHAR NOT NULL,
    variant_model     VARCHAR NOT NULL,
    base_identity     JSON NOT NULL,           -- model, adapter, digests
    variant_identity  JSON NOT NULL,
    max_tokens        INTEGER,                 -- of a generated reply
    compared_at       TIMESTAMP NOT NULL
);

-- A prompt with one reply, read by both models on the same token ids.
CREATE TABLE variant_texts (
    comparison_id       VARCHAR NOT NULL REFERENCES variant_comparisons (comparison_id),
    prompt_id           VARCHAR NOT NULL,
    text                VARCHAR NOT NULL CHECK (text IN ('base', 'variant', 'given')), -- whose reply it is; given: the set's
    base_reading_id     VARCHAR NOT NULL REFERENCES readings (reading_id),
    variant_reading_id  VARCHAR NOT NULL REFERENCES readings (reading_id),
    PRIMARY KEY (comparison_id, prompt_id, text)
);

-- Clauses of a prompt (text = 'prompt') or a reply: tokens [start, stop), positions in the sequence.
CREATE TABLE variant_clause_bounds (
    comparison_id  VARCHAR NOT NULL REFERENCES variant_comparisons (comparison_id),
    prompt_id      VARCHAR NOT NULL,
    text           VARCHAR NOT NULL,
    clause         INTEGER NOT NULL,
    start          INTEGER NOT NULL,
    stop           INTEGER NOT NULL,
    words          VARCHAR NOT NULL,
    PRIMARY KEY (comparison_id, prompt_id, text, clause)
);

-- Variant minus base, paired by prompt: means over the tokens of the prompt (text = 'prompt'), of the base's, the variant's or
-- the given reply, which both read; or over each model's own reply (text = 'own'). Intervals are 95 per cent bootstrap.
CREATE TABLE variant_effects (
    comparison_id  VARCHAR NOT NULL REFERENCES variant_comparisons (comparison_id),
    text           VARCHAR NOT NULL,
    sha256         VARCHAR NOT NULL REFERENCES vectors (sha256),
    layer          INTEGER NOT NULL,
    n              INTEGER NOT NULL,           -- prompts
    base           DOUBLE NOT NULL,            -- mean projection minus the vector file's centre, residual units
    variant        DOUBLE NOT NULL,
    difference     DOUBLE NOT NULL,
    low            DOUBLE,
    high           DOUBLE,
    separations    DOUBLE,                     -- difference / separation of the vector's classes
    dz             DOUBLE,                     -- mean / standard deviation of the differences
    dz_low         DOUBLE,
    dz_high        DOUBLE,
    random_dz      DOUBLE,                     -- |d_z| that 95 per cent of random directions on the layer stay below
    beyond_random  DOUBLE,                     -- share of random directions with a smaller |d_z|
    verdict        VARCHAR NOT NULL,           -- found; not beyond random; no difference; too few prompts
    PRIMARY KEY (comparison_id, text, sha256, layer)
);

-- Windows with the largest mean |difference| of a direction, that do not overlap; rank 1 is the largest.
CREATE TABLE variant_spans (
    comparison_id  VARCHAR NOT NULL REFERENCES variant_comparisons (comparison_id),
    text           VARCHAR NOT NULL,
    sha256         VARCHAR NOT NULL REFERENCES vectors (sha256),
    layer          INTEGER NOT NULL,
    rank           INTEGER NOT NULL,
    prompt_id      VARCHAR NOT NULL,
    start          INTEGER NOT NULL,           -- tokens [start, stop), positions in the sequence
    stop           INTEGER NOT NULL,
    words          VARCHAR NOT NULL,
    base           DOUBLE NOT NULL,            -- means of the span's tokens, residual units
    variant        DOUBLE NOT NULL,
    difference     DOUBLE NOT NULL,
    size           DOUBLE NOT NULL,            -- mean |difference|
    PRIMARY KEY (comparison_id, text, sha256, layer, rank)
);

-- Activation patching of two prompts: the target is run with streams of the source. Identity: model, prompts, spans, answers.
CREATE TABLE patchings (
    patching_id        VARCHAR PRIMARY KEY,
    run_id             VARCHAR NOT NULL REFERENCES runs (run_id), -- the first run of it
    name               VARCHAR NOT NULL,
    source             JSON NOT NULL,             -- text or messages, span, answer
    target             JSON NOT NULL,
    source_tokens      VARCHAR[] NOT NULL,
    target_tokens      VARCHAR[] NOT NULL,
    source_left_out    INTEGER[] NOT NULL,        -- positions without a partner in the other prompt
    target_left_out    INTEGER[] NOT NULL,
    answer_tokens      VARCHAR[] NOT NULL,        -- first token of the source's answer, and of the target's
    source_difference  DOUBLE NOT NULL,           -- log-probability of the first minus that of the second, nats; unpatched
    target_difference  DOUBLE NOT NULL,
    model              VARCHAR NOT NULL,
    config_digest      VARCHAR NOT NULL,
    weights_digest     VARCHAR,
    dtype              VARCHAR NOT NULL,
    n_layers           INTEGER NOT NULL,
    patched_at         TIMESTAMP NOT NULL
);

-- One cell: positions of the target that are given, at a hook point of a layer, what the source has at their partners.
CREATE TABLE patches (
    patching_id       VARCHAR NOT NULL REFERENCES patchings (patching_id),
    hook_point        VARCHAR NOT NULL,
    layer             INTEGER NOT NULL,
    part              VARCHAR NOT NULL,           -- before, span or behind the span; all
    position          INTEGER NOT NULL,           -- the first of them
    n                 INTEGER NOT NULL,           -- positions patched together
    positions         INTEGER[] NOT NULL,
    source_positions  INTEGER[] NOT NULL,
    source_answer     DOUBLE NOT NULL,            -- log-probability of the source's answer, nats
    target_answer     DOUBLE NOT NULL,
    difference        DOUBLE NOT NULL,            -- the first minus the second
    restored          DOUBLE,                     -- (difference - target's) / (source's - target's); NULL where they hardly differ
    PRIMARY KEY (patching_id, hook_point, layer, part, position, n)
);
