// Requests to the dashboard's own server.
async function answer(response) {
  if (response.ok) return response.json();
  let found = { message: `${response.status} ${response.statusText}`, type: null };
  try {
    found = (await response.json()).error;
  } catch {
    // Not JSON: only the status is known.
  }
  throw Object.assign(new Error(found.message), { kind: found.type });
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The dashboard does not answer: is `trait-client dashboard` still running?");
  }
  return response;
}

export async function get(path, params = {}, signal = undefined) {
  const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined);
  const query = new URLSearchParams(kept).toString();
  return answer(await ask(`/api/${path}${query ? "?" + query : ""}`, { signal }));
}

export async function post(path, body) {
  return answer(await ask(`/api/${path}`, posted(body)));
}

// Lines of JSON as they arrive.
export async function* lines(path, body, signal) {
  const response = await ask(`/api/${path}`, { ...posted(body), signal });
  if (!response.ok) await answer(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}

function posted(body) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}
