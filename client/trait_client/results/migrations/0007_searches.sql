-- What coefficient searches found: the setting that moves a trait most in its own direction among the coherent ones that the
-- search tried. Its trials stand in `trials` as those of a sweep do.
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
    bar           DOUBLE NOT NULL,          -- mean coherence that was asked for
    n_trials      INTEGER NOT NULL,         -- steered replies that the search took for this vector
    verdict       VARCHAR NOT NULL,
    found_at      TIMESTAMP NOT NULL,
    PRIMARY KEY (run_id, trait_sha256)
);

-- The latest search of each vector: what `trait-client steer --trait` takes.
CREATE VIEW best_settings AS
SELECT * FROM searches
QUALIFY row_number() OVER (PARTITION BY trait_sha256 ORDER BY found_at DESC) = 1
ORDER BY trait;
