-- A prompt of a corpus with its reply, token by token. Identity: model, texts, prompt id and, of a generated reply, its
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
    tokens         VARCHAR[] NOT NULL,      -- their texts; '' for a token that ends amid a character
    model          VARCHAR NOT NULL,
    config_digest  VARCHAR NOT NULL,
    finished_at    TIMESTAMP NOT NULL
);

-- Projections of a reading on one direction, minus the vector file's centre; residual units.
CREATE TABLE reading_projections (
    reading_id  VARCHAR NOT NULL REFERENCES readings (reading_id),
    sha256      VARCHAR NOT NULL REFERENCES vectors (sha256),
    layer       INTEGER NOT NULL,
    centre      DOUBLE NOT NULL,
    projected   FLOAT[] NOT NULL,           -- by position; a response's last token is not read
    PRIMARY KEY (reading_id, sha256, layer)
);

-- One row a token and direction. A prompt token's value is that of its own position; a response token's is that of the
-- position before it, which produced it. So the last prompt position is there twice: for its own token, and for the
-- first of the response.
CREATE VIEW token_projections AS
WITH rows AS (
    SELECT r.reading_id, r.prompt_id, r.outcome, r.n_prompt, r.model, p.sha256, p.layer,
           unnest(range(len(r.tokens))) AS position,
           unnest(r.tokens) AS token,
           unnest(list_concat(p.projected[:r.n_prompt], p.projected[r.n_prompt:len(r.tokens) - 1])) AS value
    FROM reading_projections p
    JOIN readings r ON r.reading_id = p.reading_id
)
SELECT t.prompt_id, t.outcome, CASE WHEN t.position < t.n_prompt THEN 'prompt' ELSE 'response' END AS part,
       t.position, t.token, v.trait, v.name AS vector, t.layer, t.value, t.model, t.sha256, t.reading_id
FROM rows t
JOIN vectors v ON v.sha256 = t.sha256;
