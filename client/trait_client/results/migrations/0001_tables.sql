-- Identity is a digest of everything that affects the output, so that nothing is stored twice. Times are UTC.

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

-- One configuration. A baseline has no trait, vector, layer or coefficient.
CREATE TABLE cells (
    cell_id               VARCHAR PRIMARY KEY,
    setting_id            VARCHAR NOT NULL, -- the cell without its seed
    baseline_id           VARCHAR NOT NULL, -- the unsteered cell of the same model and sampling; its own id for a baseline
    control_of            VARCHAR,          -- a control's steered setting
    kind                  VARCHAR NOT NULL CHECK (kind IN ('baseline', 'steered', 'control')),
    trait                 VARCHAR,
    trait_sign            INTEGER,          -- -1 where more of the trait lowers its metric
    trait_sha256          VARCHAR REFERENCES vectors (sha256), -- whose projection is read: the trait's, for controls too
    sha256                VARCHAR REFERENCES vectors (sha256), -- what is applied
    method                VARCHAR,
    layer                 INTEGER,
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
    versions              JSON NOT NULL
);

-- One cell on one prompt.
CREATE TABLE trials (
    trial_id       VARCHAR PRIMARY KEY,
    cell_id        VARCHAR NOT NULL REFERENCES cells (cell_id),
    prompt_id      VARCHAR NOT NULL REFERENCES prompts (prompt_id),
    run_id         VARCHAR NOT NULL REFERENCES runs (run_id),
    status         VARCHAR NOT NULL CHECK (status IN ('done', 'failed')),
    text           VARCHAR,
    finish_reason  VARCHAR,
    n_prompt       INTEGER,
    n_generated    INTEGER,
    steering       JSON,                    -- the service's report of what was applied
    seconds        DOUBLE,                  -- from request to answer
    error          VARCHAR,
    finished_at    TIMESTAMP NOT NULL
);

-- A missing row is a score that is still to be taken; a NULL value is a score that the reply does not have.
CREATE TABLE scores (
    trial_id    VARCHAR NOT NULL REFERENCES trials (trial_id),
    trait       VARCHAR NOT NULL,           -- '*' for scores that no trait defines
    name        VARCHAR NOT NULL,           -- lexical, coherence, relevance, perplexity, distinct3
    value       DOUBLE,
    definition  VARCHAR NOT NULL,           -- digest of how it is taken
    mode        VARCHAR NOT NULL DEFAULT 'computed',
    PRIMARY KEY (trial_id, trait, name)
);

-- Mean projection of a reply, read back unsteered, minus the vector file's centre; residual units.
CREATE TABLE projections (
    trial_id   VARCHAR NOT NULL REFERENCES trials (trial_id),
    sha256     VARCHAR NOT NULL REFERENCES vectors (sha256),
    layer      INTEGER NOT NULL,
    positions  VARCHAR NOT NULL,
    value      DOUBLE,
    PRIMARY KEY (trial_id, sha256, layer, positions)
);
