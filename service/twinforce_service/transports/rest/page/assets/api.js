// The REST API of the service that this page came from, with the key of the user.

const STORED = "twinforce-key";
let askForKey = async () => null;

export class ServiceError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `HTTP status ${status}`);
    this.status = status;
  }
}

export const key = () => sessionStorage.getItem(STORED);

export function setKey(text) {
  if (text) {
    sessionStorage.setItem(STORED, text);
  } else {
    sessionStorage.removeItem(STORED);
  }
}

// Set the function that asks the user for a key; it is given the reason, and returns null if there is none.
export function onKeyNeeded(ask) {
  askForKey = ask;
}

async function failure(reply) {
  let problem = {};
  try {
    problem = await reply.json();
  } catch {
    problem = { title: reply.statusText };
  }
  return new ServiceError(reply.status, problem);
}

export async function request(path, { body, signal } = {}) {
  for (;;) {
    const used = key();
    const headers = { Accept: "application/json, text/event-stream" };
    if (used) {
      headers.Authorization = `Bearer ${used}`;
    }
    const call = { headers, signal, cache: "no-store" };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      Object.assign(call, { method: "POST", body: JSON.stringify(body) });
    }
    let reply;
    try {
      reply = await fetch(path, call);
    } catch (error) {
      if (error.name === "AbortError") {
        throw error;
      }
      throw new ServiceError(0, { detail: "The service cannot be reached." });
    }
    if (reply.ok) {
      return reply;
    }
    const error = await failure(reply);
    if (reply.status !== 401) {
      throw error;
    }
    if (key() === used && (await askForKey(used ? error.message : "")) === null) {
      throw error;
    }
  }
}

export const getJson = async (path, call) => (await request(path, call)).json();

export const modelPath = (model, call) => `v1/models/${encodeURIComponent(model)}/${call}`;

// Yield the parts of a reply between separators, as they arrive.
async function* parts(reply, separator) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        break;
      }
      const found = (rest + value).split(separator);
      rest = found.pop();
      yield* found;
    }
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new ServiceError(0, { detail: "The connection to the service was lost." });
  } finally {
    reader.cancel().catch(() => {});
  }
  if (rest.trim()) {
    yield rest;
  }
}

// Yield the JSON objects in the lines of a reply; an object that reports a problem is thrown.
export async function* lines(path, call) {
  for await (const line of parts(await request(path, call), "\n")) {
    if (line.trim()) {
      const value = JSON.parse(line);
      if (value.error) {
        throw new ServiceError(value.error.status, value.error);
      }
      yield value;
    }
  }
}

// Yield the data of server-sent events. EventSource could not send the key.
export async function* events(path, call) {
  for await (const event of parts(await request(path, call), "\n\n")) {
    if (event.startsWith("data: ")) {
      yield JSON.parse(event.slice("data: ".length));
    }
  }
}
