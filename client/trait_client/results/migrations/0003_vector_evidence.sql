-- Cosine of two vectors' directions on one layer; each pair stands once, the smaller sha256 first.
CREATE TABLE cosines (
    sha256        VARCHAR NOT NULL REFERENCES vectors (sha256),
    other_sha256  VARCHAR NOT NULL REFERENCES vectors (sha256),
    layer         INTEGER NOT NULL,
    cosine        DOUBLE NOT NULL,
    PRIMARY KEY (sha256, other_sha256, layer)
);

-- What is known of each vector on each layer, from its file's metadata.
CREATE VIEW vector_layers AS
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

-- Every pair from both sides, with names instead of hashes.
CREATE VIEW vector_cosines AS
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
