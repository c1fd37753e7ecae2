// A steered request for other tools: command line, curl, Python. The API key's variable is named; its value is never written.
import { gateText } from "./gate.js";
import { TOP_K } from "./lens.js";
import { quoted } from "./views/sql.js";

export function asCli({ url, prompt, terms, lens = [], maxTokens, temperature }) {
  const shared = `--max-tokens ${maxTokens} --temperature ${temperature} --url ${url}`;
  if (terms.length === 1) {
    const [term] = terms;
    const layer = term.layers ? ` --layer ${term.layers[0]}` : "";
    const where = `${term.at ? ` --at ${term.at}` : ""}${term.when ? ` --when ${quoted(gateText(term.when))}` : ""}`;
    return `trait-client steer --vector ${term.vector}${layer}${where} --coef ${term.coefficient}${lens.length ? ` --lens ${lens.join(",")}` : ""} ${shared} ${quoted(prompt)}`;
  }
  if (terms.some((term) => term.when)) return "# several vectors under a condition: use curl or Python";
  const lines = [...terms.map((term) => `/steer ${term.vector} ${term.coefficient}${term.layers ? " " + term.layers[0] : ""}`),
    prompt.replaceAll("\n", " ")];
  return `printf '%s\\n' ${lines.map(quoted).join(" ")} | trait-client chat ${shared}`;
}

export function bodyOf({ model, messages, terms, monitored, lens = [], maxTokens, temperature }) {
  const body = { model, messages, max_tokens: maxTokens, temperature };
  if (terms.length) body.steering = { terms };
  if (monitored.length || lens.length) body.monitor = { vectors: monitored, prompt: false };
  if (lens.length) body.monitor.lens = { layers: lens, top_k: TOP_K };
  return body;
}

export function asCurl(request) {
  const body = JSON.stringify(bodyOf(request), null, 2);
  return `curl ${request.url}/v1/chat/completions \\\n  -H "Authorization: Bearer $TRAIT_API_KEY" -H "Content-Type: application/json" \\\n  -d ${quoted(body)}`;
}

export function asPython(request) {
  const body = bodyOf(request);
  const extra = { ...(body.steering ? { steering: body.steering } : {}), ...(body.monitor ? { monitor: body.monitor } : {}) };
  return `import os

from openai import OpenAI

client = OpenAI(base_url=${python(request.url + "/v1")}, api_key=os.environ.get("TRAIT_API_KEY", "none"))
reply = client.chat.completions.create(
    model=${python(request.model)},
    messages=${python(body.messages)},
    max_tokens=${request.maxTokens},
    temperature=${request.temperature},
    extra_body=${python(extra)},
)
print(reply.choices[0].message.content)${body.steering ? "\nprint(reply.steering)" : ""}
`;
}

// A JSON value as a Python literal.
function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${python(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
